#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of a GPT-2 in PyTorch, 1.13 or newer, as `orrery bench` times its own; prints a JSON object.

Started by `orrery bench --against pytorch`, which gives the sizes of its model. Random tokens, AdamW, clipping. Every step
is timed from the first forward to the end of the update, the device waited for on both sides; tokens are made before.
"""
import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import time

NO_PYTORCH = 3      # exit status; 1 is any other failure


def choose_vectors():
    """Kernels for AVX-512 are there, but some versions of PyTorch take them only on request, read when it is imported."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        flags = next((line.split() for line in f if line.startswith("flags")), [])
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
            os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx512")


choose_vectors()
try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    print(f"cannot be imported: {error}", file=sys.stderr)
    sys.exit(NO_PYTORCH)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, usual in (("layers", 12), ("heads", 12), ("width", 768), ("inner", 0), ("vocab", 50257), ("positions", 1024),
                        ("batch", 4), ("micro-batch", 0), ("seq", 256), ("steps", 8), ("warm-up", 2), ("threads", 0)):
        p.add_argument("--" + name, type=int, default=usual)
    for name, usual in (("epsilon", 1e-5), ("embd-dropout", 0), ("attn-dropout", 0), ("resid-dropout", 0), ("lr", 1e-4),
                        ("beta1", 0.9), ("beta2", 0.95), ("adam-epsilon", 1e-8), ("weight-decay", 0.1), ("clip", 1)):
        p.add_argument("--" + name, type=float, default=usual)
    p.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for flag in ("untied", "tf32", "compile", "probe"):
        p.add_argument("--" + flag, action="store_true")
    a = p.parse_args()
    a.inner = a.inner or 4 * a.width
    a.micro_batch = min(a.micro_batch or a.batch, a.batch)
    return a


def drop(x, rate):
    """PyTorch computes a mask for a rate of 0, too."""
    return F.dropout(x, rate) if rate > 0 else x


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.dropout, self.residual_dropout = a.heads, a.attn_dropout, a.resid_dropout
        self.norm = nn.LayerNorm(a.width, a.epsilon)
        self.qkv = nn.Linear(a.width, 3 * a.width)
        self.proj = nn.Linear(a.width, a.width)

    def attend(self, q, k, v, mask):
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + mask
        return drop(weights.softmax(-1), self.dropout) @ v

    def forward(self, x, mask):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.norm(x)).split(c, 2))
        y = self.attend(q, k, v, mask).transpose(1, 2).reshape(b, t, c)
        return x + drop(self.proj(y), self.residual_dropout)


class MLP(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.dropout = a.resid_dropout
        self.norm = nn.LayerNorm(a.width, a.epsilon)
        self.fc = nn.Linear(a.width, a.inner)
        self.proj = nn.Linear(a.inner, a.width)

    def forward(self, x):
        return x + drop(self.proj(F.gelu(self.fc(self.norm(x)), approximate="tanh")), self.dropout)


class GPT2(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.dropout = a.embd_dropout
        self.wte = nn.Embedding(a.vocab, a.width)
        self.wpe = nn.Embedding(a.positions, a.width)
        self.attention = nn.ModuleList(Attention(a) for _ in range(a.layers))
        self.mlp = nn.ModuleList(MLP(a) for _ in range(a.layers))
        self.norm = nn.LayerNorm(a.width, a.epsilon)
        self.head = nn.Linear(a.width, a.vocab, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)
        if not a.untied:
            self.head.weight = self.wte.weight
        mask = torch.full((a.seq, a.seq), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens, labels):
        x = drop(self.wte(tokens) + self.wpe.weight[:tokens.shape[1]], self.dropout)
        for attention, mlp in zip(self.attention, self.mlp):
            x = mlp(attention(x, self.mask))
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), labels.view(-1))


def make_optimizer(model, a):
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": a.weight_decay},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0}]
    settings = {"lr": a.lr, "betas": (a.beta1, a.beta2), "eps": a.adam_epsilon}
    try:
        return torch.optim.AdamW(groups, fused=True, **settings), True
    except (TypeError, RuntimeError, ValueError):       # what older versions say, and newer ones of a device without it
        return torch.optim.AdamW(groups, **settings), False


def make_scaler(a):
    if a.dtype != "fp16":
        return None
    return torch.amp.GradScaler(a.device) if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler()


class Trainer:
    def __init__(self, a):
        self.a = a
        self.model = GPT2(a).to(a.device)
        self.parameters = list(self.model.parameters())
        self.optimizer, self.fused = make_optimizer(self.model, a)
        self.scaler = make_scaler(a)
        self.run = torch.compile(self.model) if a.compile else self.model

    def accumulate(self, tokens, labels):
        """The mean loss of a batch, taken in microbatches; the last may be short."""
        a, total = self.a, 0
        for x, y in zip(tokens.split(a.micro_batch), labels.split(a.micro_batch)):
            with torch.autocast(a.device, dtype=DTYPES[a.dtype]) if a.dtype != "fp32" else contextlib.nullcontext():
                loss = self.run(x, y)
            if len(x) < a.batch:
                loss = loss * (len(x) / a.batch)
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            total = total + loss.detach()
        return total

    def update(self):
        if self.a.clip > 0:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.a.clip)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self):
        """Seconds that a step took, and its loss."""
        a = self.a
        text = torch.randint(a.vocab, (a.batch, a.seq + 1), device=a.device)
        tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
        wait(a)
        start = time.perf_counter()
        loss = self.accumulate(tokens, labels)
        self.update()
        wait(a)
        return time.perf_counter() - start, float(loss)


def wait(a):
    if a.device == "cuda":
        torch.cuda.synchronize()


def check(a):
    if a.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"CUDA: PyTorch {torch.__version__} has no CUDA device")
    if a.compile and not hasattr(torch, "compile"):
        raise SystemExit(f"--compile: PyTorch {torch.__version__} has no torch.compile")
    if a.device == "cpu" and a.dtype == "fp16" and not hasattr(torch.amp, "GradScaler"):
        raise SystemExit(f"--dtype fp16: PyTorch {torch.__version__} cannot on a CPU")     # would warn, and go on in fp32


def measure(a):
    check(a)
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.set_float32_matmul_precision("high" if a.tf32 else "highest")
    torch.manual_seed(1)
    trainer = Trainer(a)
    steps = [trainer.step() for _ in range(a.warm_up + a.steps)]
    seconds = [s for s, _ in steps[a.warm_up:]]
    on_gpu = a.device == "cuda"
    return {
        "tokens_per_s": a.batch * a.seq / statistics.median(seconds),
        "best_tokens_per_s": a.batch * a.seq / min(seconds),
        "step_ms": 1000 * statistics.median(seconds),
        "loss": steps[-1][1],
        "parameters": sum(p.numel() for p in trainer.parameters),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "peak_device_mib": torch.cuda.max_memory_reserved() >> 20 if on_gpu else 0,
        "device": a.device,
        "device_name": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "batch": a.batch, "micro_batch": a.micro_batch, "seq": a.seq, "dtype": a.dtype, "compile": a.compile,
        "fused_optimizer": trainer.fused, "fused_attention": hasattr(F, "scaled_dot_product_attention"),
        "version": torch.__version__,
    }


def main():
    a = arguments()
    try:
        print(json.dumps({"version": torch.__version__} if a.probe else measure(a)))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:      # one line, as the command prints it; compilers' messages go on for pages
        lines = str(error).strip().splitlines()
        sys.exit(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")


if __name__ == "__main__":
    main()
