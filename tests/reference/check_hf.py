#!/usr/bin/env python3
"""Does Hugging Face transformers read a GPT-2 directory as it was meant?

usage: check_hf.py MODEL_DIRECTORY [GOLDEN_DIRECTORY]

Loads MODEL_DIRECTORY (config.json and model.safetensors or its shards) with
GPT2LMHeadModel.from_pretrained and lists keys that are missing or unexpected. With GOLDEN_DIRECTORY
(input.json and golden.safetensors, see tests/golden/README.md) it computes the logits, last hidden
states, loss and gradients in float64 and prints the largest difference of each kind, relative to the
largest value of its tensor. Exits 1 on a missing or unexpected key or a difference above 1e-6.
Needs PyTorch, transformers and safetensors.
"""
import json
import math
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

TOLERANCE = 1e-6


def stored_keys(directory):
    keys = set()
    for path in directory.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            keys |= set(file.keys())
    return keys


def key_problems(model, info, stored):
    """from_pretrained keeps quiet about some keys (an absent head, attention masks), so compare here as well."""
    entries = model.state_dict()
    present = {entries[key].data_ptr() for key in stored & entries.keys()}
    missing = {key for key, value in entries.items() if value.data_ptr() not in present}
    return sorted(missing | set(info["missing_keys"])), sorted((stored - entries.keys()) | set(info["unexpected_keys"]))


def computed(model, inputs):
    """The part of golden.safetensors that is not training."""
    out = {}
    with torch.no_grad():
        for i, ids in enumerate(inputs["logits"]):
            result = model(torch.tensor([ids]), output_hidden_states=True)
            out[f"logits.{i}"], out[f"last_hidden_state.{i}"] = result.logits[0], result.hidden_states[-1][0]
    batch = torch.tensor(inputs["batch"])
    loss = model(batch, labels=batch).loss  # the model shifts the labels itself
    loss.backward()
    out["loss"] = loss.detach().view(1)
    for name, w in model.named_parameters():
        out["grad." + name] = w.grad
    return out


def compare(got, golden):
    """Prints the worst tensor of each kind; returns whether all agree."""
    worst, agree = {}, True
    for name in golden:
        if name.startswith("losses") or name == "grad_norms":
            continue
        if name not in got or got[name].shape != golden[name].shape:
            print(f"{name}: absent or of another shape")
            agree = False
            continue
        want = golden[name].double()
        error = ((got[name] - want).abs().max() / want.abs().max()).nan_to_num(nan=math.inf)
        kind = name.split(".")[0]
        worst[kind] = max(worst.get(kind, (0.0, "")), (float(error), name))
    for name in sorted(got.keys() - golden.keys()):
        print(f"{name}: not in golden.safetensors")
        agree = False
    for kind, (value, name) in sorted(worst.items()):
        print(f"{kind}: largest difference {value:.1e} ({name})")
        agree = agree and value <= TOLERANCE
    return agree


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    model, info = transformers.GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True)
    missing, unexpected = key_problems(model, info, stored_keys(directory))
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {model.num_parameters()} parameters")
    print(f"missing keys: {missing or 'none'}\nunexpected keys: {unexpected or 'none'}")
    agree = not missing and not unexpected
    if len(sys.argv) == 3:
        golden = Path(sys.argv[2])
        inputs = json.loads((golden / "input.json").read_text())
        agree = compare(computed(model.double().eval(), inputs), load_file(golden / "golden.safetensors")) and agree
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
