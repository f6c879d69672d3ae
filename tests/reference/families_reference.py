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
GREEDY = 12
RUN = {"optimizer": "adamw", "steps": 20, "lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
       "weight_decay": 0.1, "clip": 0.0, "schedule": "constant", "warmup": 0, "min_lr": 0.0}
SLOW_RUN = dict(RUN, lr=1e-3)       # of scores that are not scaled, with which fp32 and fp64 part soon: transformers' own, too

DECODER = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, use_cache=True)
LLAMA3 = dict(rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

SEQUENCES = dict(vocab_size=97, d_model=24, d_kv=6, d_ff=40, num_heads=3, relative_attention_num_buckets=8,
                 relative_attention_max_distance=20, decoder_start_token_id=0, n_positions=64, dropout_rate=0.0)
# Rows of examples, (source, target) tokens each, of encoder and decoder: several in a row, with padding behind.
ROWS = (((9, 5), (14, 11), (3, 8)), ((30, 4), (2, 25)), ((32, 32),), ((7, 1), (1, 7), (6, 6)))
ROW = 32

MODELS = {
    "llama": lambda: transformers.LlamaConfig(**DECODER, tie_word_embeddings=False, rope_parameters=LLAMA3),
    "llama-biased": lambda: transformers.LlamaConfig(
        **dict(DECODER, num_key_value_heads=1, head_dim=8), tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    "mistral": lambda: transformers.MistralConfig(**dict(DECODER, head_dim=10), sliding_window=6, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(
        **dict(DECODER, max_position_embeddings=16), tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
        max_window_layers=1, rope_parameters=dict(rope_type="dynamic", rope_theta=100.0, factor=2.0)),
    "t5": lambda: transformers.T5Config(
        **SEQUENCES, num_layers=2, num_decoder_layers=3, feed_forward_proj="relu", tie_word_embeddings=True),
    "t5-gated": lambda: transformers.T5Config(
        **SEQUENCES, num_layers=3, num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}


def randomize(model):
    """Every parameter random, so that no gradient is trivial."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, w in model.named_parameters():
            noise = torch.randn(w.shape, generator=generator)
            if w.ndim == 2:
                w.copy_(noise * (0.2 if "embed" in name or "shared" in name else w.shape[1] ** -0.5))
            else:
                w.copy_(noise * 0.1 + (1 if "norm" in name.lower() and name.endswith("weight") else 0))


def tokens(count, length, vocab, seed):
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randint(0, vocab, (count, length), generator=generator).tolist()


def rows_of(vocab):
    examples = [[tokens(1, n, vocab, 100 * r + 10 * i + side)[0] for side, n in enumerate(lengths)]
                for r, row in enumerate(ROWS) for i, lengths in enumerate(row)]
    return [[examples.pop(0) for _ in row] for row in ROWS]


def shifted(target):
    return [0] + target[:-1]


def examples_loss(model, rows):
    """Of every example by itself."""
    total, count = 0, 0
    for source, target in (example for row in rows for example in row):
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([shifted(target)])).logits[0]
        total = total + F.cross_entropy(logits, torch.tensor(target), reduction="sum")
        count += len(target)
    return total / count


def batch_loss(model, batch):
    if model.config.is_encoder_decoder:
        return examples_loss(model, batch)
    batch = torch.tensor(batch)
    logits = model(batch[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def train(model, batch, run):
    matrices = [w for w in model.parameters() if w.ndim == 2]
    others = [w for w in model.parameters() if w.ndim != 2]
    groups = [dict(params=matrices, weight_decay=run["weight_decay"]), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=run["lr"], betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    losses = []
    for _ in range(run["steps"]):
        loss = batch_loss(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.tensor(losses)


def greedy(model, source):
    texts = [[0]]
    while len(texts[0]) <= GREEDY:
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor(texts)).logits[0, -1]
        texts[0].append(logits.argmax().item())
    return torch.tensor(texts[0][1:])


def computed(directory, inputs):
    """golden.safetensors, from what is stored beside it."""
    model = load(directory).double()
    out = {}
    with torch.no_grad():
        for i, ids in enumerate(inputs["logits"]):
            if model.config.is_encoder_decoder:
                result = model(input_ids=torch.tensor([inputs["sources"][i]]), decoder_input_ids=torch.tensor([ids]),
                               output_hidden_states=True)
                hidden = result.decoder_hidden_states[-1] * (model.config.d_model ** -0.5 if model.config.scale_decoder_outputs else 1)
            else:
                result = model(torch.tensor([ids]), output_hidden_states=True)
                hidden = result.hidden_states[-1]
            out[f"logits.{i}"], out[f"last_hidden_state.{i}"] = result.logits[0], hidden[0]
        for i, source in enumerate(inputs.get("sources", [])):
            out[f"generated.{i}"] = greedy(model, source)
    model = load(directory).double()    # anew: dynamic angles remember the longest sequence
    loss = batch_loss(model, inputs["batch"])
    loss.backward()
    out["loss"] = loss.detach().view(1)
    for name, w in model.named_parameters():
        out["grad." + name] = w.grad.clone()
    for name, run in inputs["runs"].items():
        out[name] = train(load(directory).double(), inputs["batch"], run)
    return {name: value.detach().float().contiguous() for name, value in out.items()}


def kind_of(config):
    return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM


def load(directory):
    kind = kind_of(transformers.AutoConfig.from_pretrained(directory))
    return kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def write(directory, name):
    config = MODELS[name]()
    torch.manual_seed(SEED)
    seq2seq = config.is_encoder_decoder
    model = kind_of(config).from_config(config)
    if seq2seq and not config.scale_decoder_outputs:    # T5 v1.1, whose head transformers ties unless its file has one
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    randomize(model)
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    longest = LENGTHS[-1] if seq2seq else min(LENGTHS[-1], 2 * config.max_position_embeddings)
    inputs = {"logits": [tokens(1, min(n, longest), config.vocab_size, n)[0] for n in LENGTHS]}
    if seq2seq:
        inputs.update(sources=[tokens(1, n, config.vocab_size, 50 + n)[0] for n in reversed(LENGTHS)], row=ROW,
                      batch=rows_of(config.vocab_size))
    else:
        inputs["batch"] = tokens(BATCH, LABELS + 1, config.vocab_size, 1000)
    inputs["runs"] = {"losses": SLOW_RUN if seq2seq else RUN}
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
