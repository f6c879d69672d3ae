#!/usr/bin/env python3
"""Fine-tuning runs of tests/golden/gpt2-small in plain PyTorch: what Orrery's options for it are compared with.

usage: finetune_reference.py write|check [DIRECTORY]

write   makes DIRECTORY/finetune/runs.json (README.md there describes it)
check   computes it again and compares

DIRECTORY is by default the folder `golden` beside this file's folder. Needs what gpt2_reference.py needs. All is computed in
float64 from the stored fp32 weights.
"""
import fnmatch
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import gpt2_reference as gpt2

STEPS = 10
BASE = {"steps": STEPS, "weight_decay": 0.1, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0,
        "layer_decay": 1.0, "freeze": [], "label_smoothing": 0.0}
ADAMW = dict(BASE, optimizer="adamw", lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8)
SGD = dict(BASE, optimizer="sgd", lr=0.05, momentum=0.9)
RMSPROP = dict(BASE, optimizer="rmsprop", lr=1e-3, alpha=0.99, eps=1e-8)
RUNS = {
    "decay": dict(ADAMW, layer_decay=0.65, schedule="cosine", warmup=3, clip=1.0),
    "decay_sgd": dict(SGD, layer_decay=0.5, weight_decay=0.0),
    "decay_rmsprop": dict(RMSPROP, layer_decay=0.8),
    "freeze": dict(ADAMW, freeze=["transformer.w?e.*", "transformer.h.0.*", "*.ln_2.bias"], clip=0.5),
    "freeze_decay": dict(SGD, layer_decay=0.7, freeze=["*.attn.c_attn.weight", "transformer.ln_f.bias"]),
    "smooth": dict(ADAMW, label_smoothing=0.1, clip=1.0),
    "smooth_all": dict(SGD, label_smoothing=1.0),
}


def rate_of(cfg, run, name):
    """The factor of a parameter's learning rate; the head is tied to the embeddings."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in run["freeze"]):
        return 0.0
    if name.startswith("transformer.h."):
        return run["layer_decay"] ** (cfg["n_layer"] - int(name.split(".")[2]))
    return 1.0 if name.startswith("transformer.ln_f") else run["layer_decay"] ** (cfg["n_layer"] + 1)


def make_optimizer(cfg, run, p):
    """A group for each parameter that is trained."""
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[run["optimizer"]]
    given = {"adamw": {"betas": (run.get("beta1"), run.get("beta2")), "eps": run.get("eps")},
             "sgd": {"momentum": run.get("momentum")},
             "rmsprop": {"alpha": run.get("alpha"), "eps": run.get("eps")}}[run["optimizer"]]
    groups = [{"params": [w], "weight_decay": run["weight_decay"] if w.dim() >= 2 else 0.0, "rate": rate_of(cfg, run, name)}
              for name, w in p.items() if w.requires_grad]
    return kind(groups, run["lr"], **given)


def way(name, difference):
    """How far a parameter went; without the bias of the keys, whose gradient is zero but for rounding."""
    if name.endswith("c_attn.bias"):
        q, _, v = difference.chunk(3)
        difference = torch.cat((q, v))
    return difference.norm().item()


def train(cfg, parameters, batch, run):
    """Losses and norms before each step, and of each parameter the norm of its way from the stored weights."""
    p, losses, norms = gpt2.leaves(parameters, torch.float64), [], []
    for name, w in p.items():
        w.requires_grad_(rate_of(cfg, run, name) > 0)
    optimizer = make_optimizer(cfg, run, p)
    for s in range(run["steps"]):
        optimizer.zero_grad()
        logits = gpt2.forward(cfg, p, batch[:, :-1])[1]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), label_smoothing=run["label_smoothing"])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([w for w in p.values() if w.requires_grad], run["clip"] or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = gpt2.learning_rate(run, s) * group["rate"]
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    moved = {name: way(name, w.detach() - parameters[name].double()) for name, w in p.items()}
    return {"losses": losses, "norms": norms, "moved": moved}


def results(directory):
    cfg = json.loads((directory / "gpt2-small" / "config.json").read_text())
    inputs = json.loads((directory / "gpt2-small" / "input.json").read_text())
    parameters = gpt2.read_safetensors(directory / "gpt2-small" / "model.safetensors")
    batch = torch.tensor(inputs["batch"])
    return {name: {"options": run, **train(cfg, parameters, batch, run)} for name, run in RUNS.items()}


def numbers(run):
    return [*run["losses"], *run["norms"], *run["moved"].values()]


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    root = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parent.parent / "golden"
    torch.set_num_threads(1)
    found = results(root)
    path = root / "finetune" / "runs.json"
    if sys.argv[1] == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        return
    stored = json.loads(path.read_text())
    for name, run in found.items():
        worst = max(abs(a - b) for a, b in zip(numbers(run), numbers(stored[name])))
        print(f"{name}: stored against recomputed {worst:.1e}, loss from {run['losses'][0]:.4f} to {run['losses'][-1]:.4f}")
        if stored[name]["options"] != run["options"] or worst > 1e-9:
            sys.exit(f"{path}: {name} does not agree")


if __name__ == "__main__":
    main()
