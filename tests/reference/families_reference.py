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

SEED = 20230227
BATCH, LABELS = 4, 17
LENGTHS = (1, 7, 32)
RUN = {"optimizer": "adamw", "steps": 20, "lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
       "weight_decay": 0.1, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0}

DECODER = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, use_cache=True)
LLAMA3 = dict(rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

ENCODER = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               max_position_embeddings=40, layer_norm_eps=1e-12, pad_token_id=0, hidden_dropout_prob=0.0,
               attention_probs_dropout_prob=0.0)
DISTIL = dict(vocab_size=97, dim=24, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=40, dropout=0.0,
              attention_dropout=0.0, seq_classif_dropout=0.0)
MASKED, SEQUENCE, TOKEN = "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"
LENGTHS_IN_ROWS = ((17,), (9, 8), (5, 5, 7), (16, 1))      # of the sequences of each row of a batch

MODELS = {
    "llama": lambda: transformers.LlamaConfig(**DECODER, tie_word_embeddings=False, rope_parameters=LLAMA3),
    "llama-biased": lambda: transformers.LlamaConfig(
        **dict(DECODER, num_key_value_heads=1, head_dim=8), tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    "mistral": lambda: transformers.MistralConfig(**dict(DECODER, head_dim=10), sliding_window=6, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(
        **dict(DECODER, max_position_embeddings=16), tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
        max_window_layers=1, rope_parameters=dict(rope_type="dynamic", rope_theta=100.0, factor=2.0)),
    "llama-classify": lambda: transformers.LlamaConfig(**DECODER, architectures=["Llama" + SEQUENCE], num_labels=3, pad_token_id=0),
    "gpt2-classify": lambda: transformers.GPT2Config(vocab_size=97, n_embd=24, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0,
                                                     embd_pdrop=0.0, attn_pdrop=0.0, architectures=["GPT2" + SEQUENCE],
                                                     num_labels=3, pad_token_id=0),
    "bert": lambda: transformers.BertConfig(**ENCODER, architectures=["Bert" + MASKED]),
    "bert-classify": lambda: transformers.BertConfig(**ENCODER, architectures=["Bert" + SEQUENCE], num_labels=4),
    "roberta-tag": lambda: transformers.RobertaConfig(**dict(ENCODER, pad_token_id=1, type_vocab_size=1),
                                                      architectures=["Roberta" + TOKEN], num_labels=5),
    "distilbert": lambda: transformers.DistilBertConfig(**DISTIL, architectures=["DistilBert" + MASKED]),
}


def task_of(config):
    return next((task for task in (MASKED, SEQUENCE, TOKEN) if (config.architectures or [""])[0].endswith(task)), None)


def randomize(model):
    """Every parameter random, so that no gradient is trivial."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, w in model.named_parameters():
            noise = torch.randn(w.shape, generator=generator)
            if w.ndim == 2:
                w.copy_(noise * (0.2 if "embed" in name else w.shape[1] ** -0.5))
            else:
                w.copy_(noise * 0.1 + (1 if "norm" in name.lower() and name.endswith("weight") else 0))


def tokens(count, length, vocab, seed):
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randint(0, vocab, (count, length), generator=generator).tolist()


def batch_loss(model, inputs):
    """Of a language model every next token; else each sequence of each row by itself, and the labels that there are."""
    if "labels" not in inputs:
        batch = torch.tensor(inputs["batch"])
        return F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
    losses = []
    for row, (ids, labels, places) in enumerate(zip(inputs["batch"], inputs["labels"], inputs["places"])):
        starts = [t for t, place in enumerate(places) if place == 0] + [len(ids)]
        for begin, end in zip(starts, starts[1:]):
            more = {"token_type_ids": torch.tensor([inputs["types"][row][begin:end]])} if "types" in inputs else {}
            logits = model(torch.tensor([ids[begin:end]]), **more).logits[0]
            labelled = torch.tensor([label for label in labels[begin:end]])
            if logits.ndim == 1:        # of the sequence
                logits, labelled = logits[None], labelled[labelled >= 0]
            losses.append(F.cross_entropy(logits, labelled, reduction="sum", ignore_index=-100))
    return sum(losses) / sum(label >= 0 for labels in inputs["labels"] for label in labels)


def labelled_batch(config, task):
    """Rows of several sequences."""
    causal = config.model_type in ("llama", "mistral", "qwen2", "gpt2")
    vocab = config.vocab_size if task == MASKED else config.num_labels
    ids, labels = tokens(BATCH, LABELS, config.vocab_size, 1000), tokens(BATCH, LABELS, vocab, 1001)
    places = [[t for n in row for t in range(n)] for row in LENGTHS_IN_ROWS]
    ends = [[t == n - 1 for n in row for t in range(n)] for row in LENGTHS_IN_ROWS]
    chosen = {SEQUENCE: lambda b, t: ends[b][t] if causal else places[b][t] == 0, TOKEN: lambda b, t: True,
              MASKED: lambda b, t: (b + t) % 3 == 0}[task]
    inputs = {"batch": [[max(i, 2) for i in row] for row in ids], "places": places,
              "labels": [[labels[b][t] if chosen(b, t) else -100 for t in range(LABELS)] for b in range(BATCH)]}
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs["types"] = [[int(t > n // 2) for n in row for t in range(n)] for row in LENGTHS_IN_ROWS]
    return inputs


def train(model, inputs, run):
    matrices = [w for w in model.parameters() if w.ndim == 2]
    others = [w for w in model.parameters() if w.ndim != 2]
    groups = [dict(params=matrices, weight_decay=run["weight_decay"]), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=run["lr"], betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    losses = []
    for _ in range(run["steps"]):
        loss = batch_loss(model, inputs)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.tensor(losses)


def computed(directory, inputs):
    """golden.safetensors, from what is stored beside it."""
    model = load(directory).double()
    out = {}
    with torch.no_grad():
        for i, ids in enumerate(inputs["logits"]):
            result = model(torch.tensor([ids]), output_hidden_states=True)
            out[f"logits.{i}"] = result.logits[0].view(-1, result.logits.shape[-1])
            if "labels" not in inputs:
                out[f"last_hidden_state.{i}"] = result.hidden_states[-1][0]
    model = load(directory).double()    # anew: dynamic angles remember the longest sequence
    loss = batch_loss(model, inputs)
    loss.backward()
    out["loss"] = loss.detach().view(1)
    for name, w in model.named_parameters():
        out["grad." + name] = w.grad.clone()
    for name, run in inputs["runs"].items():
        out[name] = train(load(directory).double(), inputs, run)
    return {name: value.detach().float().contiguous() for name, value in out.items()}


def auto(config):
    return {MASKED: transformers.AutoModelForMaskedLM, SEQUENCE: transformers.AutoModelForSequenceClassification,
            TOKEN: transformers.AutoModelForTokenClassification, None: transformers.AutoModelForCausalLM}[task_of(config)]


def load(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    return auto(config).from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def write(directory, name):
    config = MODELS[name]()
    torch.manual_seed(SEED)
    model = auto(config).from_config(config)
    randomize(model)
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    longest = min(LENGTHS[-1], 2 * getattr(config, "max_position_embeddings", 64))
    inputs = {"logits": [tokens(1, min(n, longest), config.vocab_size, n)[0] for n in LENGTHS],
              **(labelled_batch(config, task_of(config)) if task_of(config) else
                 {"batch": tokens(BATCH, LABELS + 1, config.vocab_size, 1000)}), "runs": {"losses": RUN}}
    if task_of(config):
        inputs["logits"] = [[max(i, 2) for i in ids] for ids in inputs["logits"]]      # none is padding
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
