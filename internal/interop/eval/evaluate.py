#!/usr/bin/env python3
"""Compares checkpoints with the one they were made from, through transformers: perplexity, KL divergence and top-1 agreement.

    python evaluate.py REFERENCE [QUANTIZED ...] --text FILE [--text FILE ...] [--tokens 4096] [--window 2048] [--json]

For every text and checkpoint: perplexity; KL(reference || checkpoint) of the next-token distributions, mean and 99 % quantile
in nats; how often the most likely token is the same. For an encoder (no language model head): 1 - cosine of the
mean-pooled embeddings of windows of 128 tokens. float32 arithmetic on the decoded weights, on the CPU.

se is the standard error of the mean, from those of pieces of 128 tokens, and change how much the mean differs from that of the
first QUANTIZED, with the standard error of the ratio (jackknife over the same pieces): the noise of the text is in both.
"""

import argparse
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers


def windows(tokenizer, path, tokens, size):
    with open(path, encoding="utf-8") as f:
        ids = tokenizer(f.read(), add_special_tokens=False, verbose=False)["input_ids"]
    n = max(1, tokens // size)
    step = max(size, len(ids) // n)
    return [torch.tensor([ids[i : i + size]]) for i in range(0, len(ids) - 1, step)][:n]


def decoded(path):
    """The model with its 4-bit weights decoded by bitsandbytes, in float32."""
    config = transformers.AutoConfig.from_pretrained(path)
    causal = any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in config.architectures or [])
    model = (transformers.AutoModelForCausalLM if causal else transformers.AutoModel).from_pretrained(path, dtype="auto")
    if getattr(model, "is_quantized", False):
        import bitsandbytes as bnb

        for name, module in list(model.named_modules()):
            if not isinstance(module, bnb.nn.Linear4bit):
                continue
            state = module.weight.quant_state
            state.dtype = torch.float32  # what the stored numbers say, not rounded to the run dtype
            w = bnb.functional.dequantize_4bit(module.weight.data, state)
            linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=module.bias is not None, device="meta")
            linear.weight = torch.nn.Parameter(w.float(), requires_grad=False)
            if module.bias is not None:
                linear.bias = torch.nn.Parameter(module.bias.data.float(), requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
        model.is_quantized, model.quantization_method = False, None
        for t in list(model.parameters()) + list(model.buffers()):
            if t.is_floating_point():
                t.data = t.data.float()
        return model.eval(), causal
    return model.float().eval(), causal


@torch.no_grad()
def outputs(model, causal, rows):
    if causal:
        return [torch.log_softmax(model(input_ids=r).logits[0].float(), -1) for r in rows]
    return [model(input_ids=r).last_hidden_state[0].float().mean(0) for r in rows]


PIECE = 128  # tokens


def figures(reference, other, rows, causal):
    """Figures of one text, and the means of the measure over pieces of it."""
    if not causal:
        d = torch.stack([1 - torch.cosine_similarity(a, b, dim=0) for a, b in zip(reference, other)]).double()
        return {"distance": d.mean().item(), "se": error(d), "windows": len(rows)}, d
    kl, top, nll, n = [], 0, 0.0, 0
    for p, q, r in zip(reference, other, rows):
        kl.append(torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(p.split(256), q.split(256))]))
        top += (p.argmax(-1) == q.argmax(-1)).sum().item()
        nll -= q[:-1].gather(1, r[0, 1:, None]).double().sum().item()
        n += r.numel() - len(r)
    pieces = torch.stack([p.double().mean() for k in kl for p in k.split(PIECE)])
    kl = torch.cat(kl)
    return {"perplexity": float(torch.tensor(nll / n).exp()), "kl": kl.mean().item(), "se": error(pieces),
            "kl99": kl.quantile(0.99).item(), "top1": top / len(kl), "tokens": len(kl)}, pieces


def error(x):
    return (x.std() / len(x) ** 0.5).item() if len(x) > 1 else None


def change(x, base):
    """By how much the mean of x differs from that of base, as a part of it, and the standard error of that."""
    n = len(x)
    if n < 2 or not (base > 0).all():
        return {"change": None, "change_se": None}
    left_out = (x.sum() - x) / (base.sum() - base)
    se = ((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()).sqrt()
    return {"change": (x.sum() / base.sum() - 1).item(), "change_se": se.item()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("reference")
    p.add_argument("quantized", nargs="*")
    p.add_argument("--text", action="append", required=True)
    p.add_argument("--tokens", type=int, default=4096)
    p.add_argument("--window", type=int, default=2048)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.reference)
    model, causal = decoded(args.reference)
    limit = getattr(model.config, "max_position_embeddings", None) or args.window
    size = min(args.window, limit) if causal else min(128, limit)
    rows = {t: windows(tokenizer, t, args.tokens, size) for t in args.text}
    reference = {t: outputs(model, causal, rows[t]) for t in args.text}
    result, base = [], {}
    for path in [args.reference] + args.quantized:
        if path != args.reference:
            del model
            model, _ = decoded(path)
        for t in args.text:
            got = reference[t] if path == args.reference else outputs(model, causal, rows[t])
            f, pieces = figures(reference[t], got, rows[t], causal)
            f = {"model": path, "text": os.path.basename(t)} | f
            if path != args.reference:
                f |= change(pieces, base.setdefault(t, pieces))
            result.append(f)
            if not args.json:
                print("  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in f.items()), flush=True)
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
