"""Times the CPU kernels that this environment has, on one core: bitsandbytes' quantize_4bit and dequantize_4bit, ONNX
Runtime's MatMulBnb4 quantizer. Prints JSON for bench: elements a second, the best of several calls.
"""

import json
import os
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any library counts the cores
SHAPES = ((512, 512), (4096, 4096))  # what fits a second-level cache, and a tensor that does not
SECONDS = 0.2


def best(n, call):
    times = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return n / min(times)


def bitsandbytes(rates):
    import torch
    from bitsandbytes import functional as F

    torch.set_num_threads(1)
    torch.manual_seed(1)
    for shape in SHAPES:
        weights = torch.randn(shape) * 0.02
        n = weights.numel()
        for elem, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
            w = weights.to(dtype)
            for kind in ("nf4", "fp4"):
                row = {"type": kind, "elem": elem, "impl": "bitsandbytes", "n": n}
                rates.append({"op": "quantize", **row, "speed": best(n, lambda: F.quantize_4bit(w, quant_type=kind, blocksize=64))})
                packed, state = F.quantize_4bit(w, quant_type=kind, blocksize=64)
                rates.append({"op": "dequantize", **row, "speed": best(n, lambda: F.dequantize_4bit(packed, state))})  # it has no out= on CPUs


def onnxruntime(rates):
    import numpy as np
    from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

    # the quantizer knows float32 and float16; 0 is FP4, 1 NF4 (matmul_bnb4_quantizer.py)
    for rows, columns in SHAPES:
        n = rows * columns
        weights = np.random.default_rng(1).standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        for elem, dtype in (("f16", np.float16), ("f32", np.float32)):
            w = weights.astype(dtype)
            packed, absmax = np.zeros(n // 2, np.uint8), np.zeros(n // 64, dtype)
            for number, kind in enumerate(("fp4", "nf4")):
                row = {"op": "quantize", "type": kind, "elem": elem, "impl": "onnxruntime", "n": n}
                rates.append({**row, "speed": best(n, lambda: quantize_matmul_bnb4(packed, w, absmax, 64, number, columns, rows))})


# Not named kernels.py: bitsandbytes tries to import a package of that name, and would find this.
rates = []
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for measure in (bitsandbytes, onnxruntime):
    try:
        measure(rates)
    except ModuleNotFoundError:
        pass  # the other environment has it
if not rates:
    sys.exit("neither bitsandbytes nor onnxruntime is installed here")
json.dump(rates, answer)
