"""Loads converted checkpoints of many architectures and compares them with what bitsandbytes makes of the same sources.

A case: {"family": a key of families_models.FAMILIES; "source", "converted": directories}. The answer is compare.py's, and:
"kept" are the modules that BitsAndBytesConfig by itself would quantize and the checkpoint does not, "extra" the other way round;
if there are any, the rest of the comparison is with a reference whose llm_int8_skip_modules is the checkpoint's own list.
"stateless" are Linear4bit modules without a quant_state; "reference_fails" and "ours_fails" say what a forward pass raises.
"""

import json
import os

import common
import compare
import families_models as models
import torch


def tensors(value):
    """All floating-point tensors of a model's output, in order."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if hasattr(value, "values"):
        value = value.values()
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return []
    return [t for v in value for t in tensors(v)]


@torch.no_grad()
def forward(family, model):
    out = model(**models.inputs_of(family, model.config))
    for main in ("logits", "logits_per_image", "last_hidden_state"):
        if getattr(out, main, None) is not None:
            return getattr(out, main)
    return tensors(out)[0]


def handle(case):
    family = case["family"]
    common.AUTO[family] = models.class_of(family)
    ours, keys = common.load(family, case["converted"], dtype="auto")
    theirs = common.quantize(family, case["source"], "bfloat16", "nf4", False)
    la, lb = common.linear4bit(ours), common.linear4bit(theirs)
    out = {"error": "", "loading": keys, "quantized": sorted(la), "kept": sorted(lb.keys() - la.keys()), "extra": sorted(la.keys() - lb.keys())}
    out["stateless"] = sorted(n for n, m in la.items() if getattr(m.weight, "quant_state", None) is None)
    if out["kept"] or out["extra"]:
        with open(os.path.join(case["converted"], "config.json")) as f:
            skip = json.load(f)["quantization_config"]["llm_int8_skip_modules"]
        if skip is not None:
            theirs = common.quantize(family, case["source"], "bfloat16", "nf4", False, skip)
            lb = common.linear4bit(theirs)
    out["reference_quantized"] = sorted(lb)
    if not out["stateless"]:
        out |= compare.compare_linears(la, lb)
        out["rest_differs"] = compare.compare_rest(ours, theirs, la)
        runs = {}
        for who, model in (("reference", theirs), ("ours", ours)):
            try:
                runs[who] = forward(family, model)
            except Exception as e:
                out[who + "_fails"] = f"{type(e).__name__}: {e}".splitlines()[0][:200]
        if len(runs) == 2:
            x, y = runs["ours"], runs["reference"]
            out["logits_equal"] = torch.equal(x, y)
            out["logits_relative"] = common.relative(x, y)
            out["finite"] = bool(torch.isfinite(x).all())
    return out


if __name__ == "__main__":
    common.serve(handle)
