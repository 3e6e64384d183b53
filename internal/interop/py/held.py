"""Float32 checkpoints of classes that hold some modules in float32, and what transformers' own 4-bit save makes of them.

A case: {"list": true} asks for the models of families_models and reads whose class has _keep_in_fp32_modules or its strict twin.
{"family", "out": directory, "large": bool} saves the model in float32; with "large" the weights of T5's wo are so large that what
they put out is more than float16 holds. {"family", "source", "converted": directories, "dtype"} quantizes the source in this process
with the converted checkpoint's skip list, saves that, and compares: "dtypes" are the tensors of another dtype in the two files, "names"
those in one of them, "held" the number of floats that are not of dtype and no sidecars, "equal" that the logits are, "finite" that they are finite.
"""

import json
import os
import tempfile

import common
import families
import families_models as models
import reads
import torch
from safetensors import safe_open

LARGE = 0.9 * 6e4  # within float16


def is_sidecar(name):
    return ".weight." in name or name.endswith(".num_batches_tracked")  # a counter, which it makes a float with the norm's weights


def dtypes(path):
    out = {}
    for name in os.listdir(path):
        if name.endswith(".safetensors"):
            with safe_open(os.path.join(path, name), "pt") as f:
                out |= {n: f.get_slice(n).get_dtype() for n in f.keys() if not is_sidecar(n)}
    return out


def listed():
    out = []
    for name in models.FAMILIES:
        cls = models.class_of(name)
        if cls is not None and (cls._keep_in_fp32_modules or cls._keep_in_fp32_modules_strict):
            out.append(name)
    return out


def make(case):
    model = models.model_of(case["family"]).float()
    if case.get("large"):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith(".wo.weight"):
                    p.mul_(LARGE / p.abs().max())
    model.save_pretrained(case["out"])
    common.load(case["family"], case["out"], dtype=torch.float32)  # 5.23 does not read all that it saves


def compare(case):
    family, dtype = case["family"], case["dtype"]
    with open(os.path.join(case["converted"], "config.json")) as f:
        skip = json.load(f)["quantization_config"]["llm_int8_skip_modules"]
    theirs = common.quantize(family, case["source"], dtype, "nf4", False, skip)
    with tempfile.TemporaryDirectory() as d:
        theirs.save_pretrained(d)
        saved, own = dtypes(d), dtypes(case["converted"])
    ours, _ = common.load(family, case["converted"], dtype="auto")
    short = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    x, y = families.forward(family, ours), families.forward(family, theirs)
    return {
        "dtypes": sorted(f"{n}: {own[n]}, transformers {saved[n]}" for n in own.keys() & saved.keys() if own[n] != saved[n]),
        "names": sorted(own.keys() ^ saved.keys()),
        "held": sum(d == "F32" != short for d in own.values()),
        "equal": torch.equal(x, y),
        "finite": bool(torch.isfinite(x).all()),
    }


def handle(case):
    models.FAMILIES |= {n: f for n, f in reads.MODELS.items() if n not in models.FAMILIES}
    if case.get("list"):
        return {"error": "", "families": listed()}
    cls = models.class_of(case["family"])
    if cls is None:
        return {"error": "", "absent": "no class"}
    common.AUTO[case["family"]] = cls
    if "out" in case:
        make(case)
        return {"error": ""}
    return {"error": "", **compare(case)}


if __name__ == "__main__":
    common.serve(handle)
