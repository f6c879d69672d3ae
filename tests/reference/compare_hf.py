#!/usr/bin/env python3
"""Does Orrery compute what Hugging Face transformers does with a model's directory?

usage: compare_hf.py MODEL_DIRECTORY [--orrery PATH] [--length T] [--seed S] [--steps N] [--golden DIRECTORY]

Loads MODEL_DIRECTORY (config.json and model.safetensors or its shards) in transformers, in float32 and with its plain
attention, and lists keys that are missing or unexpected. Then it runs `orrery logits` and `orrery grads` on random token ids,
and, of models that predict the next token, `orrery train` for N steps of AdamW (20; 0: none) on one random sequence, and prints how far the two are apart at most:

    logits, last hidden state, loss of a step   relative to the largest value of the tensor, of the loss
    gradients                                   likewise, or to a thousandth of the largest value of all gradients, if that is
                                                more: some gradients are zero but for rounding

Sequences have T tokens at most (48). With --golden (input.json and golden.safetensors, see tests/golden/README.md) it does
none of that, but computes those results in float64 and compares them, at 1e-6.

Exits 1 on a missing or unexpected key, on a difference above the tolerances below, or where Orrery fails. Needs PyTorch,
transformers >= 5, NumPy and safetensors.
"""
import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

TOLERANCES = {"logits": 2e-5, "last_hidden_state": 2e-5, "loss": 2e-5, "grad": 1e-4, "step": 1e-4}
GOLDEN_TOLERANCE = 1e-6
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY = 0.1


# ---- the model in transformers


HEADS = {"ForMaskedLM": transformers.AutoModelForMaskedLM,
         "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
         "ForTokenClassification": transformers.AutoModelForTokenClassification}


def head_of(config):
    """The ending of a class that does not predict the next token, or None."""
    return next((head for head in HEADS if any(name.endswith(head) for name in config.architectures or ())), None)


def class_of(config):
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return HEADS.get(head_of(config), transformers.AutoModelForCausalLM)


def load(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    for name in ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout", "dropout_rate",
                 "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "seq_classif_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model, info = class_of(config).from_pretrained(directory, config=config, dtype=torch.float32, attn_implementation="eager",
                                                   output_loading_info=True)
    return model.eval(), info


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


def loss_of(model, batch):
    logits = model(batch[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def forward(model, sequences):
    with torch.no_grad():
        for i, ids in enumerate(sequences):
            result = model(torch.tensor([ids]), output_hidden_states=True)
            yield i, result.logits[0], result.hidden_states[-1][0]


def gradients(model, batch):
    model.zero_grad()
    loss = loss_of(model, torch.tensor(batch))
    loss.backward()
    return loss.detach(), {name: w.grad for name, w in model.named_parameters()}


def train(model, ids, steps):
    matrices = [w for w in model.parameters() if w.ndim == 2]
    others = [w for w in model.parameters() if w.ndim != 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=DECAY), dict(params=others, weight_decay=0.0)], **ADAMW)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, torch.tensor([ids]))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


# ---- the model in Orrery


def written(sequences):
    return ";".join(" ".join(map(str, ids)) for ids in sequences)


class Orrery:
    def __init__(self, command, directory, folder):
        self.command, self.directory, self.folder = command, directory, folder

    def run(self, name, *options):
        words = [self.command, name, "--model", str(self.directory), *options]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"orrery {name} failed with status {done.returncode}:\n{done.stderr}")

    def tensors(self, name, sequences, *options):
        out = self.folder / f"{name}.safetensors"
        self.run(name, "--ids", written(sequences), "--out", str(out), *options)
        return load_file(out)

    def train(self, ids, steps):
        """A file with one sequence and its last label is one sample, which every step reads."""
        data, metrics = self.folder / "tokens.bin", self.folder / "metrics"
        header = struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253)
        data.write_bytes(header + np.array(ids, "<u2").tobytes())
        self.run("train", "--data", str(data), "--seq", str(len(ids) - 1), "--batch", "1", "--steps", str(steps), "--val-fraction",
                 "0", "--lr", str(ADAMW["lr"]), "--beta1", str(ADAMW["betas"][0]), "--beta2", str(ADAMW["betas"][1]), "--eps",
                 str(ADAMW["eps"]), "--weight-decay", str(DECAY), "--schedule", "constant", "--warmup", "0", "--clip", "0",
                 "--dropout", "0", "--quiet", "--metrics", str(metrics))
        return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]


# ---- differences


class Differences:
    def __init__(self):
        self.worst, self.agree = {}, True

    def add(self, kind, name, found, wanted, least=0.0):
        if found.shape != wanted.shape:
            print(f"{name}: has shape {list(found.shape)}, not {list(wanted.shape)}")
            self.agree = False
            return
        scale = max(wanted.abs().max().item(), least) or 1.0
        error = ((found - wanted).abs().max() / scale).nan_to_num(nan=math.inf).item()
        self.worst[kind] = max(self.worst.get(kind, (0.0, "")), (error, name))

    def names(self, found, wanted):
        for name in sorted(found ^ wanted):
            print(f"{name}: {'is not known to transformers' if name in found else 'is absent'}")
            self.agree = False

    def tell(self, tolerances):
        for kind, (value, name) in self.worst.items():
            print(f"{kind}: largest difference {value:.1e} ({name}), at most {tolerances[kind]:.0e}")
            self.agree = self.agree and value <= tolerances[kind]
        return self.agree


def random_ids(generator, length, config):
    """None of them for padding, whose embedding gets no gradient in transformers."""
    ids = torch.randint(0, min(config.vocab_size, 1 << 16) - 1, (length,), generator=generator)
    pad = getattr(config, "pad_token_id", None)
    return (ids if pad is None else ids + (ids >= pad)).tolist()


def labels_of(config, generator, ids):
    """One of a sequence, where its class is read; one of every token; or of every third for masked tokens."""
    head, n = head_of(config), len(ids)
    labels = torch.randint(0, config.vocab_size if head == "ForMaskedLM" else config.num_labels, (n,), generator=generator).tolist()
    causal = config.model_type in ("gpt2", "llama", "mistral", "qwen2")
    chosen = {"ForMaskedLM": lambda t: t % 3 == 0, "ForTokenClassification": lambda t: True,
              "ForSequenceClassification": lambda t: t == (n - 1 if causal else 0)}[head]
    return [label if chosen(t) else -100 for t, label in enumerate(labels)]


def compare_labelled(model, orrery, arguments):
    """Logits, loss and gradients where labels are given. A sequence's class has one row of logits."""
    config, generator, differences = model.config, torch.Generator().manual_seed(arguments.seed), Differences()
    longest = min(arguments.length, getattr(config, "max_position_embeddings", arguments.length) - 4)
    sequences = [random_ids(generator, n, config) for n in sorted({1, min(7, longest), longest})]
    labels = [labels_of(config, generator, ids) for ids in sequences]
    found, total, count = orrery.tensors("logits", sequences), 0, 0
    for i, (ids, wanted) in enumerate(zip(sequences, labels)):
        logits = model(torch.tensor([ids])).logits[0].view(-1, found["logits"].shape[-1])
        rows = [t for t, label in enumerate(wanted) if label != -100]
        single = head_of(config) == "ForSequenceClassification"
        differences.add("logits", f"sequence {i}", found["logits"][i][rows if single else range(len(ids))], logits.detach())
        chosen = torch.tensor([wanted[t] for t in rows])
        total = total + F.cross_entropy(logits if single else logits[rows], chosen, reduction="sum")
        count += len(rows)
    loss = total / count
    loss.backward()
    found = orrery.tensors("grads", sequences, "--labels", written(labels))
    differences.add("loss", "loss", found.pop("loss"), loss.detach().view(1))
    wanted = {name: w.grad for name, w in model.named_parameters()}
    differences.names(found.keys(), wanted.keys())
    least = 1e-3 * max(w.abs().max().item() for w in wanted.values())
    for name in sorted(found.keys() & wanted.keys()):
        differences.add("grad", name, found[name], wanted[name], least)
    return differences.tell(TOLERANCES)


def compare(model, orrery, arguments):
    if model.config.is_encoder_decoder:
        sys.exit(f"{type(model).__name__}: encoder-decoders are not compared")
    if head_of(model.config):
        return compare_labelled(model, orrery, arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    positions = getattr(model.config, "max_position_embeddings", arguments.length)
    longest = min(arguments.length, positions)
    differences = Differences()

    sequences = [random_ids(generator, n, model.config) for n in sorted({1, min(7, longest), longest})]
    found = orrery.tensors("logits", sequences)
    for i, logits, hidden in forward(model, sequences):
        n = len(sequences[i])
        differences.add("logits", f"sequence {i}", found["logits"][i][:n], logits)
        differences.add("last_hidden_state", f"sequence {i}", found["last_hidden_state"][i][:n], hidden)

    batch = [random_ids(generator, longest, model.config) for _ in range(3)]
    found = orrery.tensors("grads", batch)
    loss, wanted = gradients(model, batch)
    differences.add("loss", "loss", found.pop("loss"), loss.view(1))
    differences.names(found.keys(), wanted.keys())
    least = 1e-3 * max(w.abs().max().item() for w in wanted.values())
    for name in sorted(found.keys() & wanted.keys()):
        differences.add("grad", name, found[name], wanted[name], least)

    if arguments.steps:
        ids = batch[0]
        losses = zip(orrery.train(ids, arguments.steps), train(model, ids, arguments.steps), strict=True)
        for step, (got, want) in enumerate(losses, 1):
            differences.add("step", f"step {step}", torch.tensor([got]), torch.tensor([want]))
    return differences.tell(TOLERANCES)


def compare_golden(model, again, directory):
    """`again` is a second one: the angles of the first may remember its longest sequence."""
    inputs = json.loads((directory / "input.json").read_text())
    golden = load_file(directory / "golden.safetensors")
    golden = {name: value for name, value in golden.items() if not name.startswith("losses") and name != "grad_norms"}
    got, differences = {}, Differences()
    for i, logits, hidden in forward(model.double(), inputs["logits"]):
        got[f"logits.{i}"], got[f"last_hidden_state.{i}"] = logits, hidden
    loss, grads = gradients(again.double(), inputs["batch"])
    got["loss"] = loss.view(1)
    got |= {f"grad.{name}": value for name, value in grads.items()}
    differences.names(got.keys(), golden.keys())
    for name in sorted(got.keys() & golden.keys()):
        differences.add(name.split(".")[0], name, got[name], golden[name].double())
    return differences.tell(dict.fromkeys(TOLERANCES, GOLDEN_TOLERANCE))


def main():
    parser = argparse.ArgumentParser(description="Compares Orrery with transformers on a model's directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--orrery", default="orrery", help="the command")
    parser.add_argument("--length", type=int, default=48, help="tokens of a sequence, at most")
    parser.add_argument("--seed", type=int, default=1, help="of the token ids")
    parser.add_argument("--steps", type=int, default=20, help="of AdamW; 0: none")
    parser.add_argument("--golden", type=Path, help="a folder of results to check instead")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model, info = load(arguments.directory)
    missing, unexpected = key_problems(model, info, stored_keys(arguments.directory))
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {type(model).__name__}, "
          f"{model.num_parameters()} parameters")
    print(f"missing keys: {missing or 'none'}\nunexpected keys: {unexpected or 'none'}")
    agree = not missing and not unexpected
    if arguments.golden:
        agree = compare_golden(model, load(arguments.directory)[0], arguments.golden) and agree
    else:
        with tempfile.TemporaryDirectory() as folder:
            agree = compare(model, Orrery(arguments.orrery, arguments.directory, Path(folder)), arguments) and agree
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
