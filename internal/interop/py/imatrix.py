"""Collects an importance matrix as llama-imatrix does, from a forward pass of the real model, writes it in llama.cpp's older format
(tools/imatrix/imatrix.cpp, save_imatrix_legacy), and says what it makes of NF4's error.

A case: {"source": directory, "out": file}. The answer, by weight: "weighted", the relative RMSE with squared errors times the mean
squared input, in float64; "output", the relative error of the layer's output on the same inputs.
"""

import common  # before bitsandbytes, whose backend it chooses

import struct

import numpy as np
import torch
from measure_errors import bitsandbytes4

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def handle(case):
    model, _ = common.load("causal", case["source"], dtype=torch.float32)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_pre_hook(lambda m, x, name=name: inputs.__setitem__(name, x[0].reshape(-1, x[0].shape[-1]).numpy()))
    common.forward(model, torch.randint(0, 1000, (512,), generator=torch.Generator().manual_seed(1)).tolist())

    weights, out = model.state_dict(), {}
    with open(case["out"], "wb") as f:
        f.write(struct.pack("<i", len(inputs)))
        for name, x in inputs.items():
            mean = (x.astype(np.float64) ** 2).mean(0).astype(np.float32)  # one call, of all tokens
            _, _, layer, module = name.split(".", 3)
            entry = f"blk.{layer}.{NAMES[module]}.weight".encode()
            f.write(struct.pack("<i", len(entry)) + entry + struct.pack("<ii", 1, mean.size) + mean.tobytes())
            w = weights[name + ".weight"]
            run = w.to(torch.bfloat16).float().numpy().reshape(-1)
            v = bitsandbytes4(run, "nf4", 64, False).reshape(w.shape).astype(np.float64)
            w = w.numpy().astype(np.float64)
            rms = lambda a: np.sqrt((a**2).sum())  # noqa: E731
            scale = np.sqrt(mean.astype(np.float64))
            out[name + ".weight"] = {"weighted": rms((w - v) * scale) / rms(w * scale), "output": rms(x @ (w - v).T) / rms(x @ w.T)}
        f.write(struct.pack("<ii", 1, 4) + b"text")
    return {"error": "", "tensors": out}


if __name__ == "__main__":
    common.serve(handle)
