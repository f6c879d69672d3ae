#!/usr/bin/env python3
"""What Hugging Face transformers' generate() adds to prompts: the tokens that Orrery's tests compare with.

usage: generate_reference.py write|check [DIRECTORY]

write   makes DIRECTORY/generate/cases.json (README.md there describes it) from the models in DIRECTORY
check   generates every case anew and compares

DIRECTORY is by default the folder `golden` beside this file's folder. Needs PyTorch, transformers and safetensors.

The models compute in float64. A case is only worth something where no decision is near: the first prompt of a random stream is
taken for which the same tokens come however all logits are disturbed, by uniform noise of up to NOISE, in THROWS throws. Orrery in
fp32 is a hundred times nearer than that to float64. Cases with a stop token have to end by it before their full length, and every
other setting has to matter: without it other tokens come.
"""
import json
import sys
from pathlib import Path

import torch
import transformers

SEED, NOISE, THROWS, LENGTHS, TRIES = 20251128, 1e-3, 25, (1, 4, 9), 4000

# What is asked for, as generate() calls it, and how many cases of it. eos_token_id True: a token that the search does find.
CASES = (
    ("gpt2-small", 2, {"max_new_tokens": 20}),
    ("gpt2-small", 2, {"max_new_tokens": 20, "repetition_penalty": 1.3}),
    ("gpt2-small", 1, {"max_new_tokens": 20, "repetition_penalty": 0.8}),
    ("gpt2-small", 2, {"max_new_tokens": 20, "no_repeat_ngram_size": 2}),
    ("gpt2-small", 1, {"max_new_tokens": 20, "no_repeat_ngram_size": 1}),
    ("gpt2-small", 1, {"max_new_tokens": 20, "no_repeat_ngram_size": 3, "repetition_penalty": 1.1}),
    ("gpt2-small", 2, {"max_new_tokens": 20, "eos_token_id": True}),
    ("gpt2-small", 2, {"max_new_tokens": 20, "eos_token_id": True, "min_new_tokens": 6}),
    ("gpt2-small", 2, {"max_new_tokens": 16, "num_beams": 2}),
    ("gpt2-small", 2, {"max_new_tokens": 12, "num_beams": 4, "no_repeat_ngram_size": 2}),
    ("gpt2-small", 2, {"max_new_tokens": 16, "num_beams": 2, "eos_token_id": True}),
    ("gpt2-small", 2, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True, "length_penalty": 0.0}),
    ("gpt2-small", 2, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True, "length_penalty": 2.0}),
    ("gpt2-small", 2, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True, "length_penalty": -1.0}),
    ("gpt2-small", 1, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True, "repetition_penalty": 1.2}),
    ("gpt2-small", 1, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True, "min_new_tokens": 5}),
    ("gpt2-untied", 2, {"max_new_tokens": 20, "repetition_penalty": 1.2}),
    ("gpt2-untied", 2, {"max_new_tokens": 16, "num_beams": 4, "eos_token_id": True}),
)


def load(directory):
    model = transformers.GPT2LMHeadModel.from_pretrained(directory).double().eval()
    model.noise = None
    model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits if model.noise is None
        else logits + NOISE * (2 * torch.rand(logits.shape, generator=model.noise, dtype=logits.dtype) - 1))
    return model


def generate(model, prompt, asked, noise=None):
    """The tokens that are added, and with beams their score."""
    model.noise = noise
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                         pad_token_id=0, return_dict_in_generate=True, output_scores=True,
                         **{"eos_token_id": None, "early_stopping": False, **asked})
    score = getattr(out, "sequences_scores", None)
    return out.sequences[0, len(prompt):].tolist(), None if score is None else round(score.item(), 6)


def is_certain(model, prompt, asked, tokens):
    throws = (torch.Generator().manual_seed(n) for n in range(THROWS))
    return all(generate(model, prompt, asked, noise)[0] == tokens for noise in throws)


def all_matter(model, prompt, asked, tokens):
    settings = asked.keys() - {"max_new_tokens", "eos_token_id"}
    return all(generate(model, prompt, {key: asked[key] for key in asked if key != setting})[0] != tokens
               for setting in settings)


def find(name, model, asked, random):
    """The first prompt that will do."""
    for _ in range(TRIES):
        length = LENGTHS[torch.randint(len(LENGTHS), (), generator=random)]
        prompt = torch.randint(model.config.vocab_size, (length,), generator=random).tolist()
        now = dict(asked)
        if asked.get("eos_token_id"):
            free, _ = generate(model, prompt, {**asked, "eos_token_id": None, "min_new_tokens": None})
            now["eos_token_id"] = free[len(free) // 2]
        tokens, score = generate(model, prompt, now)
        ends = "eos_token_id" not in now or (tokens[-1] == now["eos_token_id"] and len(tokens) < now["max_new_tokens"])
        if ends and all_matter(model, prompt, now, tokens) and is_certain(model, prompt, now, tokens):
            return {"model": name, "prompt": prompt, **now, "tokens": tokens, **({} if score is None else {"score": score})}
    sys.exit(f"{name}: no prompt is certain enough for {asked}")


def write(root):
    random, cases, models = torch.Generator().manual_seed(SEED), [], {}
    for name, count, asked in CASES:
        models[name] = models.get(name) or load(root / name)
        cases += [find(name, models[name], asked, random) for _ in range(count)]
        print(cases[-1], flush=True)
    (root / "generate").mkdir(exist_ok=True)
    (root / "generate" / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def check(root):
    models = {}
    for case in json.loads((root / "generate" / "cases.json").read_text()):
        name, prompt, wanted, score = (case.pop(key, None) for key in ("model", "prompt", "tokens", "score"))
        models[name] = models.get(name) or load(root / name)
        tokens, found = generate(models[name], prompt, case)
        if tokens != wanted or (score is not None and abs(found - score) > 1e-5):
            sys.exit(f"{name}, {prompt}, {case}: {tokens} {found}, stored {wanted} {score}")
    print("all cases agree")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    root = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parent.parent / "golden"
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    (write if sys.argv[1] == "write" else check)(root)


if __name__ == "__main__":
    main()
