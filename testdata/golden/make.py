"""Makes bitsandbytes.safetensors.zst from the real bitsandbytes on the CPU. See README.md.

    python make.py        needs torch, bitsandbytes, safetensors and the zstd program

The tensors are

    src/KIND/DTYPE                            values to quantize
    q/KIND/DTYPE/TYPE/BLOCK/codes             bitsandbytes.functional.quantize_4bit, compress_statistics=False
    q/KIND/DTYPE/TYPE/BLOCK/absmax
    q/KIND/DTYPE/TYPE/BLOCK/state             its quant_state as save_pretrained stores it (pack_dict_to_tensor)
    q/KIND/DTYPE/TYPE/BLOCK/decoded           the default backend's dequantize_4bit, in DTYPE (not for every case)
    dq/KIND/scales                            float32 scales
    dq/KIND/offset, codes, nested, decoded    as quantize_4bit(compress_statistics=True) treats its absmax
    full/KIND/DTYPE/TYPE/*                    src, and every tensor of a quant_state with double quantization
    decode/DTYPE/TYPE                         codes 0 to 15 times each of decode/scales
    table/nf4, table/fp4, table/dynamic       get_4bit_type and create_dynamic_map
    convert/FROM, convert/FROM/TO             torch's own conversions
"""

import os
import subprocess

os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes
import bitsandbytes.functional as F
import numpy as np
import safetensors
import safetensors.torch
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.utils import pack_dict_to_tensor

SEED = 20230523
HERE = os.path.dirname(os.path.abspath(__file__))

torch.set_num_threads(1)
rng = np.random.default_rng(SEED)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TYPES = ("nf4", "fp4")
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# torch.compile may replace the decorated function; the plain one is the reference.
decode_4bit = _dequantize_4bit_compute.__wrapped__
tables = {t: F.get_4bit_type(t, device="cpu") for t in TYPES}
out = {}


def put(name, t):
    assert name not in out, name
    out[name] = t.detach().clone().contiguous().reshape(-1)


def f32(a):
    return torch.from_numpy(np.asarray(a, dtype=np.float32).copy())


def thresholds(t):
    v = np.sort(tables[t].numpy())
    return (v[:-1] + v[1:]) / np.float32(2)


def ties(block):
    """Blocks whose scaled values lie on a threshold and a few float32 steps to either side."""
    row = []
    for absmax in (1.0, 0.0371, 3.3e-39, 2.9e38, float(rng.uniform(0.5, 2))):
        for sign in (1, -1):
            vals = [np.float32(sign * absmax)]
            for t in TYPES:
                for thr in thresholds(t):
                    x = np.float32(thr * np.float32(absmax))
                    for _ in range(2):
                        x = np.nextafter(x, np.float32(-np.inf))
                    for _ in range(5):
                        vals.append(x)
                        x = np.nextafter(x, np.float32(np.inf))
            first, rest = vals[0], vals[1:]
            for i in range(0, len(rest), block - 1):
                row += [first] + rest[i : i + block - 1]
                row += [np.float32(0)] * (-len(row) % block)
    return f32(row)


def exact_ties(dtype):
    """16-bit values whose scaled value is exactly a threshold: found by trying every pair of mantissas."""
    frac = 7 if dtype == torch.bfloat16 else 10
    m = (1 + torch.arange(2**frac, dtype=torch.float32) / 2**frac).to(dtype).float().numpy()
    row = []
    for a in m:
        inv = np.float32(1) / a
        for t in TYPES:
            for thr in thresholds(t):
                for e in range(-12, 1):
                    s = np.float32(2.0**e)
                    for x in (m * s)[(m * s) * inv == abs(thr)]:
                        row += [a, x, -x, np.nextafter(x, np.float32(9))] + [0] * 28
    return f32(row[: 32 * 128])


def sources():
    n = 4096 + 611
    normal = rng.standard_normal(n) * 0.02
    yield "normal", f32(normal)
    yield "heavy", f32(rng.standard_t(2, n) * 0.01)
    yield "outlier", f32(np.where(rng.random(n) < 0.01, 30, 1) * rng.standard_normal(n) * 0.01)
    yield "constant", f32(np.full(700, 0.0123))
    yield "negative", f32(-np.abs(rng.standard_normal(700)))
    yield "zero", f32(np.zeros(700))
    yield "negzero", f32(np.where(rng.random(700) < 0.5, -0.0, rng.choice([0.0, -0.0, 1e-4, -1e-4, 1.0], 700)))
    one = np.zeros(4096 + 77)
    one[rng.integers(0, len(one), 60)] = rng.standard_normal(60)
    yield "onehot", f32(one)
    small = rng.standard_normal(n) * 2.0 ** rng.integers(-149, -125, n)
    yield "subnormal", f32(small)
    yield "tiny", f32(rng.standard_normal(700) * 1e-38)
    yield "halfsubnormal", f32(rng.standard_normal(n) * 2.0 ** rng.integers(-25, -13, n))
    yield "huge", f32(np.clip(rng.standard_normal(n) * 1.5e38, -3.3e38, 3.3e38))
    yield "halfhuge", f32(np.clip(rng.standard_normal(700) * 3e4, -65504, 65504))
    yield "scales", f32(rng.standard_normal(n) * 10.0 ** np.repeat(rng.uniform(-30, 30, n // 32 + 1), 32)[:n])
    yield "length", f32(rng.standard_normal(400))


def quantize(name, x, dname, t, block, decode):
    codes, state = F.quantize_4bit(x, blocksize=block, quant_type=t)
    key = f"{name}/{dname}/{t}/{block}"
    put(f"q/{key}/codes", codes)
    put(f"q/{key}/absmax", state.absmax)
    if decode:
        put(f"q/{key}/decoded", decode_4bit(codes.reshape(-1), state.absmax, tables[t], block, (x.numel(),), x.dtype))
        put(f"q/{key}/state", packed_state(state))


def packed_state(state):
    d = {k: v for k, v in state.as_dict(packed=True).items() if k.startswith("quant_state")}
    assert len(d) == 1
    return next(iter(d.values()))


def quantization():
    for kind, x32 in sources():
        for dname, dtype in DTYPES.items():
            x = x32.to(dtype)
            if not torch.isfinite(x).all() or (kind == "halfhuge" and dname != "float16"):
                continue
            put(f"src/{kind}/{dname}", x)
            blocks = BLOCKS if kind in ("normal", "heavy", "onehot", "scales") else (32, 64, 256)
            for t in TYPES:
                for b in blocks:
                    quantize(kind, x, dname, t, b, decode=b in (64, 4096) and kind in ("normal", "heavy", "huge", "subnormal"))
    for b in (32, 64, 4096):
        x = ties(b)
        put(f"src/ties{b}/float32", x)
        for t in TYPES:
            quantize(f"ties{b}", x, "float32", t, b, decode=False)
    for dname in ("bfloat16", "float16"):
        x = exact_ties(DTYPES[dname]).to(DTYPES[dname])
        put(f"src/exact/{dname}", x)
        for t in TYPES:
            quantize("exact", x, dname, t, 32, decode=False)
    whole = f32(rng.standard_normal(200))
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 66, 95, 96, 97, 127, 128, 129, 159, 191, 200):
        for dname, dtype in DTYPES.items():
            x = whole[:n].to(dtype)
            put(f"src/n{n}/{dname}", x)
            for t in TYPES:
                for b in (32, 64):
                    quantize(f"n{n}", x, dname, t, b, decode=b == 64)


def double_quantization():
    n = 256 * 9 + 77
    absnormal = np.abs(rng.standard_normal((n, 64)).max(axis=1))
    kinds = {
        "normal": absnormal * 0.02,
        "spread": 10.0 ** rng.uniform(-6, 2, n),
        "outlier": np.where(rng.random(n) < 0.01, 50, 1) * absnormal,
        "constant": np.full(300, 0.25),
        "mostly": np.where(np.arange(n) < 512, 0.5, absnormal),
        "zeros": np.where(rng.random(n) < 0.3, 0, absnormal),
        "subnormal": absnormal * 1e-41,
        "huge": absnormal * 5e34,
        "one": [0.7],
        "two": [0.7, 0.9],
    }
    for kind, a in kinds.items():
        scales = f32(a)
        offset = scales.mean()
        codes, state = F.quantize_blockwise(scales - offset, blocksize=256)
        assert state.blocksize == 256 and not state.nested
        put(f"dq/{kind}/scales", scales)
        put(f"dq/{kind}/offset", offset)
        put(f"dq/{kind}/codes", codes)
        put(f"dq/{kind}/nested", state.absmax)
        # As dequantize_4bit does it.
        put(f"dq/{kind}/decoded", F.dequantize_blockwise(codes, state) + offset)


def full():
    """What a checkpoint holds for one weight."""
    for kind, shape, scale in (("weight", (48, 96), 0.02), ("odd", (7, 11), 1.0)):
        for dname, dtype in DTYPES.items():
            x = f32(rng.standard_normal(shape) * scale).to(dtype)
            put(f"full/{kind}/{dname}/src", x)
            for t in TYPES:
                codes, state = F.quantize_4bit(x, blocksize=64, quant_type=t, compress_statistics=True)
                put(f"full/{kind}/{dname}/{t}/weight", codes)
                for k, v in state.as_dict(packed=True).items():
                    put(f"full/{kind}/{dname}/{t}/{k}", v)


def decoding():
    scales = f32(np.concatenate([
        rng.standard_normal(40) * 0.05, [0, 1, -0.003, 1e-38, 1e-45, 3e-42, -2e-41, 3.4e38, 65504, 65519.99, 65520, 7e4, 6e-8, 1e-7, 2e-5],
        2.0 ** rng.uniform(-30, 17, 60)]))
    put("decode/scales", scales)
    codes = torch.from_numpy(np.tile(np.arange(16, dtype=np.uint8), (len(scales), 2)))
    packed = (codes[:, ::2] << 4 | codes[:, 1::2]).reshape(-1)
    for dname, dtype in DTYPES.items():
        for t in TYPES:
            w = decode_4bit(packed, scales, tables[t], 32, (codes.numel(),), dtype)
            put(f"decode/{dname}/{t}", w.reshape(-1, 32)[:, :16])


def conversions():
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32)
    halves = rng.integers(0, 2**16, 1500).astype(np.uint32)
    near = (halves << 16) + rng.choice([0x7FFF, 0x8000, 0x8001, 0], 1500).astype(np.uint32)
    half = torch.from_numpy(halves.astype(np.uint16).view(np.int16).copy()).view(torch.float16).float().numpy().view(np.uint32)
    nearhalf = half + rng.choice([0xFFF, 0x1000, 0x1001, 0, -1], 1500).astype(np.uint32)
    f = torch.from_numpy(np.concatenate([bits, near, nearhalf]).view(np.float32).copy())
    src = {
        "float32": f,
        "bfloat16": torch.from_numpy(np.arange(0, 65536, 13, dtype=np.uint16).view(np.int16).copy()).view(torch.bfloat16),
        "float16": torch.from_numpy(np.arange(0, 65536, 11, dtype=np.uint16).view(np.int16).copy()).view(torch.float16),
        "float64": torch.from_numpy(np.concatenate([rng.standard_normal(500), f.numpy()[3000::7].astype(np.float64) * (1 + 2.0**-30)])),
        "float8_e4m3fn": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "float8_e5m2": torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2),
    }
    for name, x in src.items():
        put(f"convert/{name}", x)
        for dname, dtype in DTYPES.items():
            put(f"convert/{name}/{dname}", x.to(dtype))


for t in TYPES:
    put(f"table/{t}", tables[t])
put("table/dynamic", F.create_dynamic_map())
quantization()
double_quantization()
full()
decoding()
conversions()

raw = os.path.join(HERE, "bitsandbytes.safetensors")
# One entry: the order of several is the serializer's hash order, which changes from run to run.
made_with = f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}, seed {SEED}"
safetensors.torch.save_file(out, raw, metadata={"made_with": made_with})
subprocess.run(["zstd", "-q", "-f", "--ultra", "-22", "--long=27", "--no-progress", "--rm", raw, "-o", raw + ".zst"], check=True)
print(len(out), "tensors,", os.path.getsize(raw + ".zst"), "bytes; bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__,
      "numpy", np.__version__, "safetensors", safetensors.__version__)
