#!/usr/bin/env python3
"""Quantizes a model's Linears to int4 with GPTQ, for comparison, from the Gram matrices of an activations file.

    python gptq.py MODEL ACTIVATIONS OUT --group 128 [--damping .05] [--order act|stored]

The algorithm is that of arXiv 2210.17323 as GPTQModel and llm-compressor run it, in plain torch: asymmetric 4-bit integers, a
float16 scale and a 4-bit zero point for each group of a row's columns, from the least and largest weight of the group. With
--order act columns are taken in descending order of the Gram matrix's diagonal while groups stay those of the stored order
("static groups"), which needs no permutation at run time. OUT holds the decoded weights in float32. Bits for each weight:
4 + 20 / group.
"""

import argparse
import json

import torch
import transformers
from safetensors import safe_open

BLOCK = 64


def grid(w, group):
    """The scale and zero point of every group: [rows, groups] each."""
    w = torch.nn.functional.pad(w, (0, -w.shape[1] % group))  # the last group of a row may have fewer columns
    g = w.reshape(len(w), -1, group)
    low, high = g.amin(-1).clamp(max=0), g.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-8).half().float().clamp(min=6e-8)
    return scale, (-low / scale).round().clamp(0, 15)


def gptq(w, h, group, damping, act):
    """w decoded from its codes."""
    scale, zero = grid(w, group)
    scale, zero = (x.repeat_interleave(group, 1)[:, : w.shape[1]] for x in (scale, zero))
    order = h.diagonal().argsort(descending=True, stable=True) if act else torch.arange(len(h))
    h = h[order][:, order].double()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    h.diagonal().add_(damping * h.diagonal().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    w, scale, zero = w[:, order].clone(), scale[:, order], zero[:, order]
    w[:, dead] = 0
    out = torch.empty_like(w)
    for lo in range(0, w.shape[1], BLOCK):
        hi = min(lo + BLOCK, w.shape[1])
        lost = torch.empty(len(w), hi - lo)
        for k in range(lo, hi):
            q = ((w[:, k] / scale[:, k]).round_().add_(zero[:, k]).clamp_(0, 15) - zero[:, k]) * scale[:, k]
            out[:, k] = q
            lost[:, k - lo] = (w[:, k] - q) / u[k, k]
            w[:, k + 1 : hi].addr_(lost[:, k - lo], u[k, k + 1 : hi], alpha=-1)
        w[:, hi:].addmm_(lost, u[lo:hi, hi:], alpha=-1)
    return out[:, order.argsort()]


@torch.no_grad()
def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("activations")
    p.add_argument("out")
    p.add_argument("--group", type=int, required=True)
    p.add_argument("--damping", type=float, default=0.05)
    p.add_argument("--order", choices=("act", "stored"), default="act")
    args = p.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    with safe_open(args.activations, "pt") as f:
        entries = {}
        for weight, entry in json.loads(f.metadata()["linears"]).items():
            entries.setdefault(entry, []).append(weight)
        for entry, names in entries.items():
            # Rows do not touch each other: weights of one input are done together.
            weights = [model.get_parameter(n) for n in names]
            done = gptq(torch.cat([w.data for w in weights]), f.get_tensor(entry + ".gram").float(), args.group, args.damping, args.order == "act")
            for w, d in zip(weights, done.split([len(w) for w in weights])):
                w.data.copy_(d)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: {4 + 20 / args.group:.3f} bits")


if __name__ == "__main__":
    main()
