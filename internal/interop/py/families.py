"""Loads converted checkpoints of many architectures and compares them with what bitsandbytes makes of the same sources.

A case: {"family": a key of families_models.FAMILIES; "source", "converted": directories}. The answer is compare.py's, and:
"kept" are the modules that BitsAndBytesConfig by itself would quantize and the checkpoint does not, "extra" the other way round;
if there are any, the rest of the comparison is with a reference whose llm_int8_skip_modules is the checkpoint's own list.
"split" are experts that transformers quantizes only in a checkpoint that is quantized already. "stateless" are Linear4bit
modules without a quant_state. "reference_unloadable" and "ours_unloadable", "reference_fails" and "ours_fails" say what loading
and a forward pass raise, "own_fails", where ours does not load, what befalls a checkpoint that transformers itself made, and "source_loading", where
keys are missing or left over, which are when it loads the source.
"""

import json
import os
import tempfile

import common
import compare
import families_models as models
import bitsandbytes as bnb
import torch
from transformers.quantizers import base


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


def failure(e):
    return (f"{type(e).__name__}: {e}".strip().splitlines() or [""])[0][:200]


def own_failure(family, source):
    """What is wrong with a checkpoint that transformers itself quantized and saved, when it loads it again; "" if nothing."""
    with tempfile.TemporaryDirectory() as out:
        try:
            model = common.quantize(family, source, "bfloat16", "nf4", False)
            quantized = common.linear4bit(model).keys()
            model.save_pretrained(out)
            del model
            again, keys = common.load(family, out, dtype="auto")
        except Exception as e:
            return failure(e)
    bad = [k for k in keys if keys[k]]
    if bad:
        return f"{', '.join(bad)} keys: {keys[bad[0]][0]}"
    if stateless(again):
        return f"Linear4bit modules without quant_state: {stateless(again)[0]}"
    lost = sorted(quantized - common.linear4bit(again).keys())
    return f"no longer quantized: {lost[0]}" if lost else ""


def stateless(model):
    return sorted(n for n, m in common.linear4bit(model).items() if getattr(m.weight, "quant_state", None) is None)


def split_experts(model):
    """Does to the unquantized Llama-4 experts of model what transformers does before it loads a quantized checkpoint
    (MODULES_TO_PATCH_FOR_QUANTIZATION of its quantizers/base.py), and quantizes them; returns the new modules' names."""
    names = []
    for name, fused in [(n, m) for n, m in model.named_modules() if type(m).__name__ == "Llama4TextExperts"]:
        experts = base.SequentialLlama4TextExperts(model.config.get_text_config())
        for i, expert in enumerate(experts):
            gate, up = fused.gate_up_proj.data[i].T.chunk(2)
            for key, weight in (("gate_proj", gate), ("up_proj", up), ("down_proj", fused.down_proj.data[i].T)):
                old = getattr(expert, key)
                new = bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False, compute_dtype=torch.bfloat16,
                                        compress_statistics=False, quant_type="nf4")
                new.weight = bnb.nn.Params4bit(weight.contiguous(), requires_grad=False, quant_type="nf4", compress_statistics=False, module=new).to("cpu")
                setattr(expert, key, new)
                names.append(f"{name}.{i}.{key}")
        model.set_submodule(name, experts)
    return names


def handle(case):
    family = case["family"]
    common.AUTO[family] = models.class_of(family)
    out = {"error": ""}
    loaded = {}
    for who, load in (("reference", lambda: common.quantize(family, case["source"], "bfloat16", "nf4", False)),
                      ("ours", lambda: common.load(family, case["converted"], dtype="auto"))):
        try:
            loaded[who] = load()
        except Exception as e:
            out[who + "_unloadable"] = failure(e)
    if len(loaded) < 2:
        if "reference" in loaded:
            out["own_fails"] = own_failure(family, case["source"])
        return out
    (ours, keys), theirs = loaded["ours"], loaded["reference"]
    if any(keys.values()):
        out["source_loading"] = common.load(family, case["source"], dtype=torch.bfloat16)[1]
    la, lb = common.linear4bit(ours), common.linear4bit(theirs)
    out |= {"loading": keys, "quantized": sorted(la), "kept": sorted(lb.keys() - la.keys()), "stateless": stateless(ours)}
    extra = la.keys() - lb.keys()
    if out["kept"] or extra:
        with open(os.path.join(case["converted"], "config.json")) as f:
            skip = json.load(f)["quantization_config"]["llm_int8_skip_modules"]
        if skip is not None:
            theirs = common.quantize(family, case["source"], "bfloat16", "nf4", False, skip)
    out["split"] = split_experts(theirs)
    lb = common.linear4bit(theirs)
    out["extra"] = sorted(extra - set(out["split"]))
    out["reference_quantized"] = sorted(lb)
    if out["stateless"]:
        out["own_fails"] = own_failure(family, case["source"])
        return out
    out |= compare.compare_linears(la, lb)
    out["rest_differs"] = compare.compare_rest(ours, theirs, la)
    runs = {}
    for who, model in (("reference", theirs), ("ours", ours)):
        try:
            runs[who] = forward(family, model)
        except Exception as e:
            out[who + "_fails"] = failure(e)
    if not runs:
        try:
            forward(family, models.class_of(family).from_pretrained(case["source"], dtype=torch.bfloat16, local_files_only=True).eval())
        except Exception as e:
            out["source_fails"] = failure(e)
    if len(runs) == 2:
        x, y = runs["ours"], runs["reference"]
        out["logits_equal"] = torch.equal(x, y)
        out["logits_relative"] = common.relative(x, y)
        out["finite"] = bool(torch.isfinite(x).all())
    return out


if __name__ == "__main__":
    common.serve(handle)
