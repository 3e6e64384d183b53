#!/usr/bin/env python3
"""Writes what nf4kit convert --activations reads: how large the inputs of every Linear of a model are, on a calibration text.

    python calibrate.py MODEL --text FILE [--text FILE ...] -o OUT.safetensors [--gram] [--sensitivity] [--dtype bfloat16]
                        [--tokens 32768] [--window 2048] [--memory 4] [--device cpu]

Needs torch and transformers, any version that runs the model. Without --gram the file holds a vector for every Linear, the
mean square of each input column. With --gram it holds the Gram matrix of the inputs too, the mean of x x^T, and a second one
of every tenth window, which the first leaves out: --scale feedback chooses its damping on it. Linears that are given the
same input (q, k and v; gate and up) share one entry. --sensitivity measures what an error of each Linear's output costs the
model, which convert --target-bpp divides bits by: it runs backward through some 4,096 tokens, and holds what that takes.

Matrices take 4 bytes for each pair of columns. So many as fit --memory (GiB) are summed up in one pass over the text, on the
disk they go as soon as their pass is over; a model with more takes more passes. --dtype is what they are stored in.

The file: for each entry, named after the first of its Linears, NAME.moments [in] float32, and with --gram NAME.gram and
NAME.heldout [in, in]. Metadata: "format" = "nf4kit.activations/1", "linears" = JSON object of the name of every weight to
that of its entry, "tokens" and "heldout_tokens" as numbers in text; with --sensitivity "sensitivities" = JSON object of the name
of every weight to the mean square, over its outputs and the tokens, of the gradient of the log likelihood of what the model itself
predicts (of an encoder without a head: of random sums of its outputs).
"""

import argparse
import inspect
import json
import struct

import numpy as np
import torch
import transformers


def windows(args, tokenizer, limit):
    """The text's tokens in rows of one length, as many from each file, spread over the whole of it."""
    size, rows = min(args.window, limit), []
    for path in args.text:
        with open(path, encoding="utf-8") as f:
            ids = tokenizer(f.read(), add_special_tokens=False, verbose=False)["input_ids"]
        n = max(1, args.tokens // len(args.text) // size)
        step = max(size, len(ids) // n)
        rows += [ids[i : i + size] for i in range(0, len(ids), step)][:n]
    rows = [r for r in rows if len(r) > 1]
    if len(rows) < 2:
        raise SystemExit("calibrate: too little text for two windows: give more, or a smaller --window")
    heldout = {i for i in range(len(rows)) if i % 10 == 5} or {len(rows) - 1}
    return [(torch.tensor([r]), i in heldout) for i, r in enumerate(rows)]


def shared_inputs(model, modules, row, device):
    """Which Linears are given one and the same tensor: name to the name of the first of them."""
    seen, group, kept = {}, {}, []
    hooks = []
    for name, module in modules.items():

        def hook(_, args, name=name):
            kept.append(args[0])  # alive, so that no other tensor gets its address
            x = args[0]
            group[name] = seen.setdefault((x.data_ptr(), tuple(x.shape), x.stride()), name)

        hooks.append(module.register_forward_pre_hook(hook))
    run(model, row[:, :64], device)
    for h in hooks:
        h.remove()
    return group


def run(model, row, device, logits=False):
    """The model's output, with the logits of the last token alone unless all are asked for: they can take as long as many layers."""
    kwargs = {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}
    if not logits and "logits_to_keep" in inspect.signature(model.forward).parameters:
        kwargs["logits_to_keep"] = 1
    return model(input_ids=row.to(device), **kwargs)


def sensitivities(model, modules, rows, device):
    """The mean square of the gradient by the outputs of every Linear that the result depends on."""
    for p in model.parameters():
        p.requires_grad_(False)
    squares = {}
    hooks = [model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())]

    def watch(name):
        def grad(g):
            n, s = squares.get(name, (0, 0.0))
            squares[name] = n + g.numel(), s + (g.double() ** 2).sum().item()

        def hook(_m, _a, out):
            if out.requires_grad:
                out.register_hook(grad)

        return hook

    hooks += [m.register_forward_hook(watch(name)) for name, m in modules.items()]
    torch.manual_seed(0)
    for row in rows:
        out = run(model, row, device, logits=True)
        if getattr(out, "logits", None) is not None:
            log = torch.log_softmax(out.logits.float().flatten(0, -2), -1)
            with torch.no_grad():
                drawn = torch.multinomial(log.exp(), 1)
            loss = log.gather(-1, drawn).sum()
        else:
            loss = (out[0].float() * torch.randn_like(out[0].float())).sum()
        loss.backward()
    for h in hooks:
        h.remove()
    return {name: s / n for name, (n, s) in squares.items()}


class Sums:
    """The sums of one entry in float32, of a mean over at most some 10^5 tokens, and in float64 for the moments."""

    def __init__(self, columns, gram, device):
        self.moments = torch.zeros(columns, dtype=torch.float64, device=device)
        self.gram = [torch.zeros(columns, columns, device=device) for _ in range(2)] if gram else []
        self.rows = [0, 0]

    def add(self, x, heldout):
        x = x.detach().reshape(-1, x.shape[-1]).float()
        self.rows[heldout] += len(x)
        if not heldout:
            self.moments += x.square().sum(0, dtype=torch.float64)
        if self.gram:
            self.gram[heldout].addmm_(x.T, x)

    def result(self, part):
        rows = self.rows[part == "heldout"]
        value = self.moments if part == "moments" else self.gram[part == "heldout"]
        return value / max(rows, 1)


class Writer:
    """A safetensors file whose tensors are written one by one: the header is known before."""

    dtypes = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}

    def __init__(self, path, entries, gram, dtype, metadata):
        header, at, self.place = {"__metadata__": metadata}, 0, {}
        for name, columns in entries.items():
            for part in ("moments", "gram", "heldout") if gram else ("moments",):
                kind, size = self.dtypes["float32" if part == "moments" else dtype]
                shape = [columns] if part == "moments" else [columns, columns]
                end = at + size * int(np.prod(shape))
                header[f"{name}.{part}"] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
                self.place[name, part] = at, kind
                at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.f, self.base = open(path, "wb"), 8 + len(text)
        self.f.write(struct.pack("<Q", len(text)) + text)

    def put(self, name, sums):
        for part in ("moments", "gram", "heldout") if sums.gram else ("moments",):
            at, kind = self.place[name, part]
            value = sums.result(part).cpu().contiguous()
            raw = value.float().numpy() if kind == "F32" else value.to(torch.bfloat16).view(torch.int16).numpy()
            self.f.seek(self.base + at)
            self.f.write(raw.tobytes())


def load(args):
    common = {"dtype": "auto"} if int(transformers.__version__.split(".")[0]) >= 5 else {"torch_dtype": "auto"}
    config = transformers.AutoConfig.from_pretrained(args.model)
    causal = any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in config.architectures or [])
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model = auto.from_pretrained(args.model, **common).to(args.device).eval()
    return model if args.device != "cpu" else model.float()


@torch.no_grad()
def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--text", action="append", required=True)
    p.add_argument("-o", "--out", required=True)
    p.add_argument("--gram", action="store_true")
    p.add_argument("--sensitivity", action="store_true")
    p.add_argument("--dtype", choices=Writer.dtypes, default="float32")
    p.add_argument("--tokens", type=int, default=32768)
    p.add_argument("--window", type=int, default=2048)
    p.add_argument("--memory", type=float, default=4)
    p.add_argument("--device", default="cpu")
    args = p.parse_args()

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = load(args)
    text = windows(args, tokenizer, getattr(model.config, "max_position_embeddings", None) or args.window)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    modules = {n: m for n, m in modules.items() if m is not head}
    group = shared_inputs(model, modules, text[0][0], args.device)
    entries = {n: modules[n].in_features for n in modules if group.get(n) == n}
    tokens = [sum(row.numel() for row, held in text if held == part) for part in (False, True)]
    metadata = {
        "format": "nf4kit.activations/1", "tokens": str(tokens[0]), "heldout_tokens": str(tokens[1]),
        "linears": json.dumps({n + ".weight": g for n, g in group.items()})}
    if args.sensitivity:
        rows = [r[:, i : i + 256] for r, _ in text for i in range(0, r.shape[1], 256)]
        with torch.enable_grad():
            found = sensitivities(model, modules, rows[:: max(1, len(rows) // 16)][:16], args.device)
        metadata["sensitivities"] = json.dumps({n + ".weight": s for n, s in found.items() if n in group})
    writer = Writer(args.out, entries, args.gram, args.dtype, metadata)

    waiting = list(entries)
    while waiting:
        now, used = [], 0
        while waiting and (not now or used + 8 * entries[waiting[0]] ** 2 * args.gram <= args.memory * 2**30):
            used += 8 * entries[waiting[0]] ** 2 * args.gram
            now.append(waiting.pop(0))
        sums = {n: Sums(entries[n], args.gram, args.device) for n in now}
        part = [False]
        hooks = [modules[n].register_forward_pre_hook(lambda _, a, s=s: s.add(a[0], part[0])) for n, s in sums.items()]
        for row, part[0] in text:
            run(model, row, args.device)
        for h in hooks:
            h.remove()
        for n, s in sums.items():
            writer.put(n, s)
        print(f"{len(entries) - len(waiting)} of {len(entries)} inputs, {tokens[0]} tokens and {tokens[1]} held out", flush=True)
    writer.f.close()


if __name__ == "__main__":
    main()
