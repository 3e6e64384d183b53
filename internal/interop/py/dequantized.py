"""Compares `nf4kit dequantize` with bitsandbytes: every weight bit for bit, then both as loaded models.

A case: {"quantized": a 4-bit directory; "dequantized": what nf4kit made of it; "auto"; "dtype": that it was made in}.
"""

import glob
import json
import os

import common  # first: it chooses bitsandbytes' backend
import bitsandbytes.functional as F
import torch
from safetensors.torch import load_file

SIDECARS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


def tensors(path):
    out = {}
    for name in sorted(glob.glob(os.path.join(path, "*.safetensors"))):
        out |= load_file(name)
    return out


def expected(quantized, dtype):
    """{name: tensor} of the checkpoint as bitsandbytes decodes it, and how many blocks have a negative scale."""
    out, negative = {}, 0
    for name, t in quantized.items():
        if name.endswith(SIDECARS):
            continue
        state = {k.removeprefix(name + "."): v for k, v in quantized.items() if k.startswith(name + ".") and k.endswith(SIDECARS)}
        if state:
            qs = F.QuantState.from_dict(state, device=torch.device("cpu"))
            t = F.dequantize_4bit(t, qs).to(dtype)
            scale = F.dequantize_blockwise(qs.absmax, qs.state2) + qs.offset if qs.nested else qs.absmax
            negative += int((scale < 0).sum())
        out[name] = t
    return out, negative


def handle(case):
    dtype = getattr(torch, case["dtype"])
    want, negative = expected(tensors(case["quantized"]), dtype)
    got = tensors(case["dequantized"])
    out = {"error": "", "compared": len(want), "negative_scales": negative, "missing": sorted(want.keys() - got.keys()), "extra": sorted(got.keys() - want.keys())}
    out["differ"] = sorted(n for n in want.keys() & got.keys() if got[n].dtype != want[n].dtype or not torch.equal(got[n], want[n]))
    with open(os.path.join(case["dequantized"], "config.json")) as f:
        out["quantization_config_left"] = "quantization_config" in json.load(f)
    plain, out["loading"] = common.load(case["auto"], case["dequantized"], dtype="auto")
    out["linear4bit_left"] = sorted(common.linear4bit(plain))
    out["dtype"] = str(plain.dtype).removeprefix("torch.")
    quantized, _ = common.load(case["auto"], case["quantized"], dtype="auto")
    x, y = common.forward(plain), common.forward(quantized)
    out["logits_equal"] = torch.equal(x, y)
    out["logits_relative"] = common.relative(x, y)
    return out


if __name__ == "__main__":
    common.serve(handle)
