#!/usr/bin/env python3
"""Small random models of every family, as Hugging Face transformers computes them: what Orrery's tests compare with.

usage: families_reference.py write|check [DIRECTORY [NAME ...]]

write   makes DIRECTORY/NAME for every model below (README.md there describes the files)
check   reads them back, recomputes every number from the stored weights and inputs, and prints how far off it is

DIRECTORY is by default the folder `golden` beside this file's folder. Needs PyTorch, transformers >= 5 and safetensors.
Weights are fp32; what is computed of them is computed in float64, but for the norms and angles that transformers takes
in fp32 whatever the model, and rounded to fp32 when it is stored.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

SEED = 20230227
BATCH, LABELS = 4, 17
LENGTHS = (1, 7, 32)
RUN = {"optimizer": "adamw", "steps": 20, "lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
       "weight_decay": 0.1, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0}

DECODER = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, use_cache=True)
LLAMA3 = dict(rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

MIXTURE = dict(DECODER, intermediate_size=20, num_key_value_heads=4, num_local_experts=5, num_experts_per_tok=2,
               tie_word_embeddings=False)

MODELS = {
    "llama": lambda: transformers.LlamaConfig(**DECODER, tie_word_embeddings=False, rope_parameters=LLAMA3),
    "llama-biased": lambda: transformers.LlamaConfig(
        **dict(DECODER, num_key_value_heads=1, head_dim=8), tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    "mistral": lambda: transformers.MistralConfig(**dict(DECODER, head_dim=10), sliding_window=6, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(
        **dict(DECODER, max_position_embeddings=16), tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
        max_window_layers=1, rope_parameters=dict(rope_type="dynamic", rope_theta=100.0, factor=2.0)),
    "mixtral": lambda: transformers.MixtralConfig(**MIXTURE),
    "mixtral-balanced": lambda: transformers.MixtralConfig(**MIXTURE, output_router_logits=True, router_aux_loss_coef=0.5),
}


def randomize(model):
    """Every parameter random, so that no gradient is trivial."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, w in model.named_parameters():
            noise = torch.randn(w.shape, generator=generator)
            if w.ndim >= 2:
                w.copy_(noise * (0.2 if "embed" in name else w.shape[-1] ** -0.5))
            else:
                w.copy_(noise * 0.1 + (1 if "norm" in name.lower() and name.endswith("weight") else 0))


def tokens(count, length, vocab, seed):
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randint(0, vocab, (count, length), generator=generator).tolist()


def batch_loss(model, batch):
    """Of the labels, and with what is added to it: the loss of balance, the mean over layers of each by itself."""
    batch = torch.tensor(batch)
    result = model(batch[:, :-1])
    loss = F.cross_entropy(result.logits.flatten(0, 1), batch[:, 1:].flatten())
    if not getattr(model.config, "output_router_logits", False):
        return loss, loss
    each = [load_balancing_loss_func((logits,), model.num_experts, model.num_experts_per_tok) for logits in result.router_logits]
    return loss, loss + model.router_aux_loss_coef * sum(each) / len(each)


def as_in_files(name, value):
    """The names and tensors that a parameter has in files: of experts each by itself."""
    name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.").replace(".mlp.experts.", ".block_sparse_moe.experts.")
    if value.ndim < 3:
        return {name: value}
    kinds = ("w1", "w3") if name.endswith("gate_up_proj") else ("w2",)
    prefix = name.rsplit(".", 1)[0]
    return {f"{prefix}.{e}.{kind}.weight": part for e in range(len(value))
            for kind, part in zip(kinds, value[e].chunk(len(kinds)))}


def train(model, batch, run):
    matrices = [w for w in model.parameters() if w.ndim >= 2]
    others = [w for w in model.parameters() if w.ndim < 2]
    groups = [dict(params=matrices, weight_decay=run["weight_decay"]), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=run["lr"], betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    losses = []
    for _ in range(run["steps"]):
        loss, whole = batch_loss(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        whole.backward()
        optimizer.step()
    return torch.tensor(losses)


def computed(directory, inputs):
    """golden.safetensors, from what is stored beside it."""
    model = load(directory).double()
    out = {}
    with torch.no_grad():
        for i, ids in enumerate(inputs["logits"]):
            result = model(torch.tensor([ids]), output_hidden_states=True)
            out[f"logits.{i}"], out[f"last_hidden_state.{i}"] = result.logits[0], result.hidden_states[-1][0]
    model = load(directory).double()    # anew: dynamic angles remember the longest sequence
    loss, whole = batch_loss(model, inputs["batch"])
    whole.backward()
    out["loss"] = loss.detach().view(1)
    for name, w in model.named_parameters():
        out.update({"grad." + part: gradient.clone() for part, gradient in as_in_files(name, w.grad).items()})
    for name, run in inputs["runs"].items():
        out[name] = train(load(directory).double(), inputs["batch"], run)
    return {name: value.detach().float().contiguous() for name, value in out.items()}


def load(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    if hasattr(model.config, "num_local_experts"):
        model.set_experts_implementation("eager")
    return model


def write(directory, name):
    config = MODELS[name]()
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model)
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    run = dict(RUN, micro_batch=BATCH) if getattr(config, "output_router_logits", False) else RUN
    longest = min(LENGTHS[-1], 2 * config.max_position_embeddings)
    inputs = {"logits": [tokens(1, min(n, longest), config.vocab_size, n)[0] for n in LENGTHS],
              "batch": tokens(BATCH, LABELS + 1, config.vocab_size, 1000), "runs": {"losses": run}}
    (directory / "input.json").write_text(json.dumps(inputs) + "\n")
    save_file(computed(directory, inputs), directory / "golden.safetensors")


def check(directory):
    inputs = json.loads((directory / "input.json").read_text())
    golden = load_file(directory / "golden.safetensors")
    again = computed(directory, inputs)
    if golden.keys() != again.keys():
        return f"other names: {sorted(golden.keys() ^ again.keys())}"
    return max(((again[n] - golden[n]).abs().max() / golden[n].abs().max()).item() for n in golden)


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent.parent / "golden"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in sys.argv[3:] or MODELS:
        if sys.argv[1] == "write":
            write(root / name, name)
        else:
            print(f"{name}: {check(root / name)}")


if __name__ == "__main__":
    main()
