#!/usr/bin/env python3
"""GPT-2 (Radford et al. 2019) in plain PyTorch: the numbers that Orrery's tests compare with.

usage: gpt2_reference.py write|check [DIRECTORY]

write   makes DIRECTORY/gpt2-small and DIRECTORY/gpt2-untied (README.md there describes the files)
check   reads them back, recomputes every number from the stored weights and inputs, compares the
        gradients with finite differences, and prints how far the same computation in fp32 and in
        bf16 is off

DIRECTORY is by default the folder `golden` beside this file's folder. Needs PyTorch >= 1.12 and
NumPy, nothing else. Weights are fp32; everything computed from them is computed in float64 and
rounded to fp32 only when it is stored. gpt2-small/bf16.safetensors tells how far off PyTorch is
in bf16: parameters and activations in bf16, the loss in fp32, fp32 masters in training.
"""
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SEED = 20190214
BATCH, LABELS = 4, 17
STARTS = 8
LOGITS_LENGTHS = (1, 7, 32)

SMALL = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.0,
    "bos_token_id": 256,
    "embd_pdrop": 0.0,
    "eos_token_id": 256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 32,
    "n_embd": 30,
    "n_head": 3,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 32,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.30.2",
    "use_cache": True,
    "vocab_size": 257,
}
UNTIED = dict(SMALL, n_layer=1, tie_word_embeddings=False)

# Each run trains on the one batch from the stored weights; a name is also the tensor with its losses.
ADAMW = {"optimizer": "adamw", "steps": 20, "lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
         "weight_decay": 0.1, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0}
PLAIN = {"steps": 20, "weight_decay": 0.0, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0}
RUNS = {
    "losses": ADAMW,
    "losses_clip": dict(ADAMW, lr=6e-3, clip=1.0, schedule="cosine", warmup=5, min_lr=6e-4),
    "losses_adam": dict(PLAIN, optimizer="adam", lr=3e-3, beta1=0.9, beta2=0.999, eps=1e-8),
    "losses_sgd": dict(PLAIN, optimizer="sgd", lr=0.05, momentum=0.9),
    "losses_rmsprop": dict(PLAIN, optimizer="rmsprop", lr=1e-3, alpha=0.99, eps=1e-8),
}


# safetensors: u64 little-endian length of the header, JSON header, raw little-endian data.

def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(tensors):
        raw = tensors[name].detach().to(torch.float32).numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    blob = path.read_bytes()
    length, = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(blob[8 + length + begin:8 + length + end], "<f4")
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).astype(np.float32))
    return tensors


# The model. p maps the names of model.safetensors to tensors; matrices are [in, out] as in GPT-2's Conv1D.

def random_parameters(cfg, rng):
    """fp32 parameters, all of them random so that no gradient is trivial."""
    def normal(mean, std, *shape):
        return torch.from_numpy((mean + std * rng.standard_normal(shape)).astype(np.float32))

    c, p = cfg["n_embd"], {}

    def linear(name, n_in, n_out):
        p[name + ".weight"] = normal(0, 1 / math.sqrt(n_in), n_in, n_out)
        p[name + ".bias"] = normal(0, 0.1, n_out)

    def norm(name):
        p[name + ".weight"] = normal(1, 0.1, c)
        p[name + ".bias"] = normal(0, 0.1, c)

    p["transformer.wte.weight"] = normal(0, 0.2, cfg["vocab_size"], c)
    p["transformer.wpe.weight"] = normal(0, 0.2, cfg["n_positions"], c)
    for l in range(cfg["n_layer"]):
        h = f"transformer.h.{l}."
        norm(h + "ln_1")
        linear(h + "attn.c_attn", c, 3 * c)
        linear(h + "attn.c_proj", c, c)
        norm(h + "ln_2")
        linear(h + "mlp.c_fc", c, 4 * c)
        linear(h + "mlp.c_proj", 4 * c, c)
    norm("transformer.ln_f")
    if not cfg["tie_word_embeddings"]:
        p["lm_head.weight"] = normal(0, 0.2, cfg["vocab_size"], c)
    return p


def attention(cfg, p, h, x):
    b, t, c = x.shape
    q, k, v = (z.view(b, t, cfg["n_head"], -1).transpose(1, 2)
               for z in (x @ p[h + "c_attn.weight"] + p[h + "c_attn.bias"]).split(c, 2))
    future = torch.ones(t, t, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(future, float("-inf"))
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c)
    return y @ p[h + "c_proj.weight"] + p[h + "c_proj.bias"]


def mlp(p, h, x):
    y = F.gelu(x @ p[h + "c_fc.weight"] + p[h + "c_fc.bias"], approximate="tanh")
    return y @ p[h + "c_proj.weight"] + p[h + "c_proj.bias"]


def forward(cfg, p, ids):
    """ids [B,T] -> last_hidden_state [B,T,C] (after ln_f) and logits [B,T,V]."""
    def norm(name, x):
        return F.layer_norm(x, (cfg["n_embd"],), p[name + ".weight"], p[name + ".bias"], cfg["layer_norm_epsilon"])

    x = p["transformer.wte.weight"][ids] + p["transformer.wpe.weight"][:ids.shape[1]]
    for l in range(cfg["n_layer"]):
        h = f"transformer.h.{l}."
        x = x + attention(cfg, p, h + "attn.", norm(h + "ln_1", x))
        x = x + mlp(p, h + "mlp.", norm(h + "ln_2", x))
    x = norm("transformer.ln_f", x)
    head = p["transformer.wte.weight" if cfg["tie_word_embeddings"] else "lm_head.weight"]
    return x, x @ head.T


def batch_loss(cfg, p, batch):
    """Mean cross-entropy over all labels; of batch [B,T+1] all but the last are inputs, all but the first labels."""
    logits = forward(cfg, p, batch[:, :-1])[1]
    return F.cross_entropy(logits.to(exact_enough(logits.dtype)).flatten(0, 1), batch[:, 1:].flatten())


def exact_enough(dtype):
    """Of losses, masters and gradients' sums."""
    return torch.promote_types(dtype, torch.float32)


def leaves(parameters, dtype):
    """What gradients are taken by, in fp32 at least; cast() makes of it what is computed with."""
    return {name: w.to(exact_enough(dtype)).clone().requires_grad_() for name, w in parameters.items()}


def cast(p, dtype):
    return {name: w.to(dtype) for name, w in p.items()}


# Training.

def learning_rate(run, s):
    """Of step s, from 0: linear warm-up, then constant, or the half cosine from lr at s = warmup towards
    min_lr at s = steps (Loshchilov and Hutter 2017):
        s < warmup:  lr (s+1) / warmup
        else:        min_lr + (lr - min_lr)/2 (1 + cos(pi (s-warmup) / (steps-warmup)))"""
    if s < run["warmup"]:
        return run["lr"] * (s + 1) / run["warmup"]
    if run["schedule"] == "constant":
        return run["lr"]
    progress = (s - run["warmup"]) / (run["steps"] - run["warmup"])
    return run["min_lr"] + 0.5 * (run["lr"] - run["min_lr"]) * (1 + math.cos(math.pi * progress))


def make_optimizer(run, p):
    """Weight decay, where there is one, acts on matrices only."""
    groups = [{"params": [w for w in p.values() if w.dim() >= 2], "weight_decay": run["weight_decay"]},
              {"params": [w for w in p.values() if w.dim() < 2], "weight_decay": 0.0}]
    kind, lr = run["optimizer"], run["lr"]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr, betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    if kind == "adam":
        return torch.optim.Adam(groups, lr, betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    if kind == "sgd":
        return torch.optim.SGD(groups, lr, momentum=run["momentum"])
    return torch.optim.RMSprop(groups, lr, alpha=run["alpha"], eps=run["eps"])


def train(cfg, parameters, batch, run, dtype):
    """The loss before each step, and the norm of the whole gradient before it is clipped."""
    p, losses, norms = leaves(parameters, dtype), [], []
    optimizer = make_optimizer(run, p)
    for s in range(run["steps"]):
        optimizer.zero_grad()
        loss = batch_loss(cfg, cast(p, dtype), batch)
        loss.backward()
        # clip_grad_norm_ scales by min(1, clip / (norm + 1e-6)).
        norm = torch.nn.utils.clip_grad_norm_(p.values(), run["clip"] or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, s)
        optimizer.step()
        losses.append(loss.detach())
        norms.append(norm)
    return torch.stack(losses), torch.stack(norms)


def golden(cfg, parameters, inputs, dtype=torch.float64):
    """Every number of golden.safetensors."""
    p, out = leaves(parameters, dtype), {}
    for i, ids in enumerate(inputs["logits"]):
        hidden, logits = forward(cfg, cast(p, dtype), torch.tensor([ids]))
        out[f"last_hidden_state.{i}"], out[f"logits.{i}"] = hidden[0].detach(), logits[0].detach()
    batch = torch.tensor(inputs["batch"])
    loss = batch_loss(cfg, cast(p, dtype), batch)
    loss.backward()
    out["loss"] = loss.detach().view(1)
    for name, w in p.items():
        out["grad." + name] = w.grad
    for name, run in inputs["runs"].items():
        out[name], norms = train(cfg, parameters, batch, run, dtype)
        if run["clip"]:
            out["grad_norms"] = norms
    return out


def bf16_errors(cfg, parameters, inputs):
    """Every number of bf16.safetensors: of each tensor the largest error and the root of their mean square, both relative to its
    largest value, and of each run the largest error. One computation is one throw of the dice: it is the largest, or the mean,
    of STARTS of them, whose parameters are the stored ones and others that are near, each against its own exact numbers."""
    rng, out = np.random.RandomState(SEED), {}
    runs = inputs["runs"].keys() | {"grad_norms"}
    for start in range(STARTS):
        near = {name: parameters[name] * torch.from_numpy((1 + 0.02 * (start > 0) * rng.standard_normal(parameters[name].shape)))
                .float() for name in sorted(parameters)}
        exact, found = (golden(cfg, near, inputs, dtype) for dtype in (torch.float64, torch.bfloat16))
        for name in exact:
            error, largest = found[name].double() - exact[name], exact[name].abs().max()
            numbers = [error.abs().max()] if name in runs else [error.abs().max() / largest, error.square().mean() / largest**2]
            out.setdefault(name, []).append(torch.stack(numbers))
    return {name: torch.stack([*torch.stack(starts).max(0)[0][:1], *torch.stack(starts).mean(0)[1:].sqrt()])
            for name, starts in out.items()}


# The two commands.

def write(directory, cfg, runs, seed):
    rng = np.random.RandomState(seed)  # its stream is frozen: the same numbers with every NumPy
    parameters = random_parameters(cfg, rng)
    batch = rng.randint(0, cfg["vocab_size"], (BATCH, LABELS + 1))
    batch[0, 0], batch[-1, -1] = 0, cfg["vocab_size"] - 1  # the ends of the vocabulary, as input and as label
    batch[1, 3:6] = batch[2, 9]                            # a token that the embedding's gradient must sum over
    inputs = {"logits": [rng.randint(0, cfg["vocab_size"], n).tolist() for n in LOGITS_LENGTHS],
              "batch": batch.tolist(), "runs": runs}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in inputs.items())
    (directory / "input.json").write_text("{\n" + lines + "\n}\n")
    write_safetensors(directory / "model.safetensors", parameters)
    exact = golden(cfg, parameters, inputs)
    write_safetensors(directory / "golden.safetensors", exact)
    if runs:
        write_safetensors(directory / "bf16.safetensors", bf16_errors(cfg, parameters, inputs))


def difference(a, b):
    """Largest difference relative to the largest value."""
    return float(((a.double() - b.double()).abs().max() / b.double().abs().max()).nan_to_num(nan=math.inf))


def finite_differences(cfg, parameters, batch, entries=4, step=1e-5):
    """Largest error of central differences of the loss against the gradient, at random entries of every parameter."""
    p, rng, worst = leaves(parameters, torch.float64), np.random.RandomState(0), 0.0
    batch_loss(cfg, p, batch).backward()
    with torch.no_grad():
        for w in p.values():
            for i in rng.randint(0, w.numel(), entries):
                flat, value, at = w.view(-1), w.view(-1)[i].item(), []
                for x in (value + step, value - step):
                    flat[i] = x
                    at.append(batch_loss(cfg, p, batch).item())
                flat[i] = value
                error = abs((at[0] - at[1]) / (2 * step) - w.grad.view(-1)[i].item())
                worst = max(worst, error / w.grad.abs().max().item())
    return worst


def check(directory):
    cfg = json.loads((directory / "config.json").read_text())
    inputs = json.loads((directory / "input.json").read_text())
    parameters = read_safetensors(directory / "model.safetensors")
    stored = read_safetensors(directory / "golden.safetensors")
    exact, single = (golden(cfg, parameters, inputs, dtype) for dtype in (torch.float64, torch.float32))
    if stored.keys() != exact.keys():
        sys.exit(f"{directory}: golden.safetensors has other names: {sorted(stored.keys() ^ exact.keys())}")
    again = max(difference(stored[name], exact[name]) for name in exact)
    print(f"{directory.name}: stored against recomputed {again:.1e}")
    error = finite_differences(cfg, parameters, torch.tensor(inputs["batch"]))
    print(f"{directory.name}: gradients against finite differences {error:.1e}")
    for kind in ("last_hidden_state.", "logits.", "grad."):
        worst = max(difference(single[name], exact[name]) for name in exact if name.startswith(kind))
        print(f"{directory.name}: {kind}* in fp32 {worst:.1e}")
    for name in ("loss", *inputs["runs"], "grad_norms"):
        if name in exact:
            print(f"{directory.name}: {name} in fp32 {difference(single[name], exact[name]):.1e}, "
                  f"from {exact[name][0]:.4f} to {exact[name][-1]:.4f}")
    if again > 1e-6 or error > 1e-6:
        sys.exit(f"{directory}: does not agree")
    if inputs["runs"]:
        check_bf16(directory, bf16_errors(cfg, parameters, inputs))


def check_bf16(directory, found):
    """In what order PyTorch adds, and so how it rounds, is another processor's affair: errors may differ twofold."""
    stored = read_safetensors(directory / "bf16.safetensors")
    if stored.keys() != found.keys():
        sys.exit(f"{directory}: bf16.safetensors has other names: {sorted(stored.keys() ^ found.keys())}")
    for name in sorted(found):
        print(f"{directory.name}: {name} in bf16", *(f"{x:.1e} (stored {y:.1e})" for x, y in zip(found[name], stored[name])))
        if (found[name] > 2 * stored[name]).any() or (stored[name] > 2 * found[name]).any():
            sys.exit(f"{directory}: {name} in bf16 does not agree")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    root = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parent.parent / "golden"
    torch.set_num_threads(1)
    if sys.argv[1] == "write":
        write(root / "gpt2-small", SMALL, RUNS, SEED)
        write(root / "gpt2-untied", UNTIED, {}, SEED + 1)
    else:
        for directory in (root / "gpt2-small", root / "gpt2-untied"):
            check(directory)


if __name__ == "__main__":
    main()
