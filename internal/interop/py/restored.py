"""Compares what `nf4kit dequantize` made of a converted checkpoint with the checkpoint that was converted.

A case: {"source", "restored": directories; "quantized": the weights that were}. Every tensor of the source has to be in
"restored" under its name and in its shape, and to hold the source's values or, where it was quantized, what bitsandbytes' 4 bits
leave of them: of a Linear's weight as it is, of Conv1D's and of an expert's in the orientation in which a Linear holds it, and, of
experts that hold two projections side by side, of each. The answer lists "missing", "extra", "misshapen" and "differ", and
"wrongly": names that were quantized and hold the source's values, or the other way round.
"""

import glob
import json
import os
import re

import common  # first: it chooses bitsandbytes' backend
import bitsandbytes.functional as F
import torch
from safetensors.torch import load_file


def tensors(path):
    out = {}
    for name in sorted(glob.glob(os.path.join(path, "*.safetensors"))):
        out |= load_file(name)
    return out


def four_bits(w):
    packed, state = F.quantize_4bit(w.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=False)
    return F.dequantize_4bit(packed, state)


def transposed(w):
    return four_bits(w.T).T


def halves(w):
    return torch.cat([transposed(h) for h in w.chunk(2, -1)], -1)


def each(f):
    return lambda w: torch.stack([f(x) for x in w])


def fused(name):
    """The tensor that held the expert's weight before convert split it."""
    return re.sub(r"\.\d+\.(gate_up|gate|up|down)_proj\.weight$", lambda m: ".down_proj" if m[1] == "down" else ".gate_up_proj", name)


WAYS = {2: (four_bits, transposed), 3: (each(transposed), each(halves), each(four_bits))}


def handle(case):
    want, got = tensors(case["source"]), tensors(case["restored"])
    out = {"error": "", "missing": sorted(want.keys() - got.keys()), "extra": sorted(got.keys() - want.keys())}
    out |= {"misshapen": [], "differ": []}
    rounded = set()
    for name in sorted(want.keys() & got.keys()):
        w, g = want[name], got[name]
        if w.shape != g.shape:
            out["misshapen"].append(f"{name}: {list(g.shape)}, not {list(w.shape)}")
        elif not torch.equal(w.to(g.dtype), g):
            rounded.add(name)
            if not any(torch.equal(way(w.to(g.dtype)), g) for way in WAYS.get(w.ndim, ())):
                out["differ"].append(name)
    out["wrongly"] = sorted(rounded ^ {n if n in want else fused(n) for n in case["quantized"]})
    with open(os.path.join(case["source"], "config.json")) as a, open(os.path.join(case["restored"], "config.json")) as b:
        out["config_differs"] = json.load(a) != json.load(b)
    return out


if __name__ == "__main__":
    common.serve(handle)
