"""Writes nested.safetensors: scales, less their mean, and the codes that bitsandbytes gives them on a CPU.

    python make_goldens.py

Its native library looks codes up coarsely, which its other backends do not. "m" is the largest magnitude of each group of
256. Groups with a code that is not the nearest are taken before others, and half of the last groups equal the mean or nearly.
"""

import json
import os
import platform

import bitsandbytes
import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

GROUP, KEPT = 256, 24
here = os.path.dirname(os.path.abspath(__file__))
g = torch.Generator().manual_seed(7)


def draw(kind, n):
    x = torch.randn(n, GROUP, generator=g)
    if kind == "normal":
        return 0.05 + 0.01 * x
    if kind == "decades":
        return torch.exp(2 * x)
    return torch.where(torch.arange(GROUP) % 2 == 0, 0.05, 0.05 + 1e-6 * x) + torch.eye(n, GROUP)


table = F.create_dynamic_map()
scales, codes, m = [], [], []
for kind in ("normal", "decades", "mean"):
    s = draw(kind, 200)
    s -= 0.05 if kind == "mean" else s.mean()
    q, state = F.quantize_blockwise(s.reshape(-1), blocksize=GROUP)
    q = q.reshape(s.shape)
    nearest = torch.stack([(row[:, None] / top - table).abs().argmin(1) for row, top in zip(s, state.absmax)])
    order = (nearest != q).any(1).int().argsort(descending=True, stable=True)[: KEPT // 3]
    scales.append(s[order])
    codes.append(q[order])
    m.append(state.absmax[order])
save_file({"scales": torch.cat(scales).reshape(-1), "codes": torch.cat(codes).reshape(-1), "m": torch.cat(m)},
          os.path.join(here, "nested.safetensors"))
with open(os.path.join(here, "versions.json"), "w") as f:
    json.dump({"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "python": platform.python_version()}, f, indent=1)
    f.write("\n")
