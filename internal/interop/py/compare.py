"""Loads converted checkpoints and compares them with what bitsandbytes makes of the same sources in this process.

A case: {"source", "converted": directories; "auto": "causal", "masked" or "base"; "dtype": the run dtype; "type": "nf4" or "fp4";
"double_quant": bool; "skip": llm_int8_skip_modules of the reference, or null for transformers' own choice; "own_skip": take
the converted checkpoint's list; "cache": a hub cache to load "converted" from, as a repository name; "tokenizer": there is one,
compare it and use it for the prompt}.
"""

import json
import os

import common
import torch


def compare_linears(ours, theirs):
    """Names whose packed codes, whose scales and whose state differ; the share of nested codes that differ."""
    out = {"codes_differ": [], "absmax_differ": [], "state_differ": []}
    nested = differing = 0
    for name, m in sorted(ours.items()):
        if name not in theirs:
            continue
        a, b = m.weight, theirs[name].weight
        if not torch.equal(a.data, b.data):
            out["codes_differ"].append(name)
        qa, qb = a.quant_state, b.quant_state
        if (qa.blocksize, qa.dtype, tuple(qa.shape), qa.quant_type, qa.nested) != (qb.blocksize, qb.dtype, tuple(qb.shape), qb.quant_type, qb.nested):
            out["state_differ"].append(name)
            continue
        if not torch.equal(qa.code, qb.code):
            out["state_differ"].append(name)
        if not qa.nested:
            if not torch.equal(qa.absmax, qb.absmax):
                out["absmax_differ"].append(name)
            continue
        if not torch.equal(qa.state2.code, qb.state2.code) or qa.state2.blocksize != qb.state2.blocksize:
            out["state_differ"].append(name)
        nested += qa.absmax.numel()
        differing += (qa.absmax != qb.absmax).sum().item()
        # offset and nested absmax: float32 sums in another order, so the last bits only
        for x, y in ((qa.offset, qb.offset), (qa.state2.absmax, qb.state2.absmax)):
            if not torch.allclose(x, y, rtol=1e-5, atol=0):
                out["absmax_differ"].append(name)
    out["nested_share"] = differing / nested if nested else 0.0
    return out


def compare_rest(a, b, quantized):
    """Names of the unquantized parameters and buffers that differ in dtype or in any bit, or exist on one side only."""
    a, b = ({n: t for m in (x.named_parameters(), x.named_buffers()) for n, t in m} for x in (a, b))
    skip = {q + ".weight" for q in quantized}
    return sorted(n for n in (a.keys() | b.keys()) - skip if n not in a or n not in b or a[n].dtype != b[n].dtype or not torch.equal(a[n], b[n]))


def handle(case):
    if case.get("own_skip"):
        with open(os.path.join(case["converted"], "config.json")) as f:
            case["skip"] = json.load(f)["quantization_config"]["llm_int8_skip_modules"]
    kwargs = {"cache_dir": case["cache"]} if case.get("cache") else {}
    ours, keys = common.load(case["auto"], case["converted"], dtype="auto", **kwargs)
    theirs = common.quantize(case["auto"], case["source"], case["dtype"], case["type"], case["double_quant"], case.get("skip"))
    la, lb = common.linear4bit(ours), common.linear4bit(theirs)
    out = {"error": "", "loading": keys, "quantized": sorted(la), "reference_quantized": sorted(lb)}
    out |= compare_linears(la, lb)
    out["rest_differs"] = compare_rest(ours, theirs, la)
    ids = common.PROMPT
    if case.get("tokenizer"):
        mine, source = (common.transformers.AutoTokenizer.from_pretrained(p, local_files_only=True) for p in (case["converted"], case["source"]))
        ids = mine(common.TEXT)["input_ids"]
        out["tokenizer_differs"] = ids != source(common.TEXT)["input_ids"] or mine.decode(ids) != source.decode(ids)
    # the products come last: on some processors they repack the weights in place
    x, y = common.forward(ours, ids), common.forward(theirs, ids)
    out["logits_equal"] = torch.equal(x, y)
    out["logits_relative"] = common.relative(x, y)
    out["finite"] = bool(torch.isfinite(x).all())
    return out


if __name__ == "__main__":
    common.serve(handle)
