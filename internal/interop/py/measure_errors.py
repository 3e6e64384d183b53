"""Error figures computed without nf4kit: numpy in float64, and bitsandbytes' own quantization and decoding where it has the format.

Each case names a checkpoint, its tensors and formats; the answer gives, for each tensor and format, relative RMSE, SQNR, mean and
maximum absolute error and cosine.
"""

import glob
import json
import os
import sys

import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors import safe_open

torch.set_num_threads(1)

NF4 = F.get_4bit_type("nf4", device="cpu").numpy()
FP4 = F.get_4bit_type("fp4", device="cpu").numpy()
AF4 = np.sort(F.get_4bit_type("af4", device="cpu", blocksize=64).numpy())
INT4 = (np.arange(-7, 8).astype(np.float32) / np.float32(7)).astype(np.float32)
DYNAMIC = np.asarray(F.create_dynamic_map().tolist(), dtype=np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)


def nearest(table, y):
    """Index of the nearest entry, the upper only if strictly above the float32 midpoint."""
    middle = ((table[:-1] + table[1:]) / np.float32(2)).astype(np.float32)
    return np.searchsorted(middle, y, side="left")


def blocks(x, size):
    pad = -len(x) % size
    return np.pad(x, (0, pad)).reshape(-1, size)


def double(absmax):
    """The exact nearest of the nested code (bitsandbytes' CPU path misses it about once in 600)."""
    offset = np.float32(np.float64(np.sum(absmax, dtype=np.float64)) / len(absmax))
    b = blocks(absmax - offset, 256)
    m = np.abs(b).max(axis=1, keepdims=True)
    y = np.divide(b, m, out=np.zeros_like(b), where=m > 0)
    v = DYNAMIC[nearest(DYNAMIC, y)] * m + offset
    v = np.where(m > 0, v, offset).astype(np.float32)
    return v.reshape(-1)[: len(absmax)]


def table4(x, table, size, dq):
    b = blocks(x, size)
    a = np.abs(b).max(axis=1, keepdims=True)
    y = b * (np.float32(1) / np.maximum(a, np.float32(1e-38)))
    w = table[nearest(table, y)]
    scale = double(a.reshape(-1)).reshape(-1, 1) if dq else a
    return (w * scale).astype(np.float32).reshape(-1)[: len(x)]


def bitsandbytes4(x, kind, size, dq):
    packed, state = F.quantize_4bit(torch.from_numpy(x), blocksize=size, quant_type=kind)
    if dq:
        state.absmax = torch.from_numpy(double(state.absmax.numpy()))
    return F.dequantize_4bit(packed, state).numpy().reshape(-1)


def asymmetric(x, size):
    b = blocks(x, size)
    lo, hi = np.minimum(b.min(axis=1, keepdims=True), 0), np.maximum(b.max(axis=1, keepdims=True), 0)
    s = (hi / np.float32(15) - lo / np.float32(15)).astype(np.float32)
    s1 = np.where(s > 0, s, np.float32(1))
    z = np.clip(np.rint(-lo / s1), 0, 15).astype(np.float32)
    q = np.clip(np.rint(b / s1) + z, 0, 15).astype(np.float32)
    return np.where(s > 0, (q - z) * s, 0).astype(np.float32).reshape(-1)[: len(x)]


def e2m1(y):
    """Nearest value, ties to the even code, saturated at 6."""
    a = np.minimum(np.abs(y).astype(np.float64), 6)
    i = np.clip(np.searchsorted(E2M1, a, side="right") - 1, 0, 6)
    lo, hi = E2M1[i].astype(np.float64), E2M1[i + 1].astype(np.float64)
    up = (a - lo > hi - a) | ((a - lo == hi - a) & (i % 2 == 1))
    return (np.sign(y) * E2M1[i + up]).astype(np.float32)


def mxfp4(x):
    b = blocks(x, 32)
    a = np.abs(b).max(axis=1, keepdims=True).astype(np.float64)
    e = np.where(a > 0, np.floor(np.log2(np.where(a > 0, a, 1))) - 2, -127)
    s = np.exp2(e).astype(np.float32)
    return (e2m1(b / s) * s).astype(np.float32).reshape(-1)[: len(x)]


def e4m3(y):
    return torch.from_numpy(np.clip(y, -448, 448)).to(torch.float8_e4m3fn).float().numpy()


def nvfp4(x):
    unit = np.float32(np.abs(x).max() / np.float32(6 * 448))
    b = blocks(x, 16)
    a = np.abs(b).max(axis=1, keepdims=True)
    s = (e4m3((a / np.float32(6) / unit).astype(np.float32)) * unit).astype(np.float32)
    y = np.divide(b, s, out=np.zeros_like(b), where=s > 0)
    return (e2m1(y) * s).astype(np.float32).reshape(-1)[: len(x)]


def int8(x, shape):
    q, stats, _ = F.int8_vectorwise_quant(torch.from_numpy(x.reshape(shape).copy()))
    return F.int8_vectorwise_dequant(q, stats).float().numpy().reshape(-1)


def fp8(x):
    s = np.float32(np.abs(x).max() / np.float32(448))
    return (e4m3((x / s).astype(np.float32)) * s).astype(np.float32)


def dynamic8(x):
    b = blocks(x, 256)
    m = np.abs(b).max(axis=1, keepdims=True)
    y = np.divide(b, m, out=np.zeros_like(b), where=m > 0)
    return (DYNAMIC[nearest(DYNAMIC, y)] * m).astype(np.float32).reshape(-1)[: len(x)]


def decoded(x, shape, f):
    kind, size, dq = f["kind"], f.get("block_size", 0), f["double_quant"]
    if kind in ("nf4", "fp4"):
        return bitsandbytes4(x, kind, size, dq)
    if kind == "af4":
        return table4(x, AF4, size, dq)
    if kind == "int4":
        return table4(x, INT4, size, dq)
    return {"int4-asym": lambda: asymmetric(x, size), "mxfp4": lambda: mxfp4(x), "nvfp4": lambda: nvfp4(x),
            "int8": lambda: int8(x, shape), "fp8": lambda: fp8(x), "dynamic8": lambda: dynamic8(x)}[kind]()


def figures(x, v):
    x, v = x.astype(np.float64), v.astype(np.float64)
    e = x - v
    e2, x2 = np.dot(e, e), np.dot(x, x)
    return {"relative_rmse": np.sqrt(e2 / x2), "sqnr_db": 10 * np.log10(x2 / e2), "mean_abs_error": np.abs(e).mean(),
            "max_abs_error": np.abs(e).max(), "cosine": np.dot(x, v) / np.sqrt(x2 * np.dot(v, v))}


def answer(case):
    files = sorted(glob.glob(os.path.join(case["source"], "*.safetensors")))
    out = []
    for name in case["tensors"]:
        for path in files:
            with safe_open(path, "pt") as f:
                if name in f.keys():
                    source = f.get_tensor(name)
        x = source.float().numpy().reshape(-1)
        run = source.to(getattr(torch, case["dtype"])).float().numpy().reshape(-1)
        out.append([{k: float(v) for k, v in figures(x, decoded(run, tuple(source.shape), f)).items()} for f in case["formats"]])
    return {"tensors": out}


if __name__ == "__main__":
    json.dump([answer(c) for c in json.load(sys.stdin)], sys.stdout)
