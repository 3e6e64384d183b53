"""Writes LLM.int8 checkpoints with save_pretrained, and says what bitsandbytes' own decoding of them is off by.

A case: {"source", "out": directories; "auto", "dtype" as in compare.py}. The answer: the error figures of each weight against the
source, in numpy's float64.
"""

import glob
import os

import common  # before bitsandbytes, whose backend it chooses

import bitsandbytes.functional as F
import torch
import transformers
from measure_errors import figures
from safetensors.torch import load_file


def tensors(directory):
    return {k: v for path in glob.glob(os.path.join(directory, "*.safetensors")) for k, v in load_file(path).items()}


def handle(case):
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    dtype = getattr(torch, case["dtype"])
    model, _ = common.load(case["auto"], case["source"], dtype=dtype, quantization_config=config, device_map="cpu")
    model.save_pretrained(case["out"])
    source, saved = tensors(case["source"]), tensors(case["out"])
    out = {}
    for name, codes in saved.items():
        if codes.dtype == torch.int8:
            v = F.int8_vectorwise_dequant(codes, saved[name.removesuffix("weight") + "SCB"])
            x = source[name].float().numpy().reshape(-1)
            out[name] = {k: float(v) for k, v in figures(x, v.float().numpy().reshape(-1)).items()}
    return {"error": "", "tensors": out}


if __name__ == "__main__":
    common.serve(handle)
