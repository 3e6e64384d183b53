"""Makes pairs of checkpoints with the same values: one as FP8 or MXFP4 models are published, one decoded by a reference.

A case: {"kind": "fp8" (E4M3 with scales of 128 x 128 blocks, as DeepSeek-V3 and Qwen3-FP8 are) or "mxfp4" (as gpt-oss is);
"source": a checkpoint in bfloat16; "encoded", "decoded": directories to make}. The answer counts the encoded tensors.
The reference of fp8 is the product that DeepSeek-V3's weight_dequant forms (inference/kernel.py: float32 of the code times
the block's scale, rounded to bfloat16); that of mxfp4 is transformers' own convert_moe_packed_tensors.
"""

import glob
import json
import os
import shutil

import common  # first: it chooses bitsandbytes' backend
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import mxfp4

BLOCK = 128


def fp8(weight):
    """(codes, block scales, the decoded weight)"""
    rows, cols = weight.shape
    padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK)
    padded[:rows, :cols] = weight.float()
    blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
    codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    decoded = (codes.float() * scale[:, None, :, None]).reshape(padded.shape)[:rows, :cols].to(torch.bfloat16)
    return codes.reshape(padded.shape)[:rows, :cols].contiguous(), scale, decoded.contiguous()


def random_mxfp4(shape, generator):
    """(blocks [E, rows, groups, 16], scales [E, rows, groups], the decoded weight) for a stack [E, in, rows] of gpt-oss."""
    experts, width, rows = shape
    blocks = torch.randint(0, 256, (experts, rows, width // 32, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(118, 124, (experts, rows, width // 32), dtype=torch.uint8, generator=generator)
    return blocks, scales, mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).contiguous()


def handle(case):
    plain = {}
    for name in sorted(glob.glob(os.path.join(case["source"], "*.safetensors"))):
        plain |= load_file(name)
    encoded, decoded, n = dict(plain), dict(plain), 0
    generator = torch.Generator().manual_seed(20260911)
    for name, t in plain.items():
        if case["kind"] == "fp8" and t.ndim == 2 and ".layers." in name:
            encoded[name], encoded[name + "_scale_inv"], decoded[name] = fp8(t)
            n += 1
        if case["kind"] == "mxfp4" and name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            del encoded[name]
            encoded[name + "_blocks"], encoded[name + "_scales"], decoded[name] = random_mxfp4(t.shape, generator)
            assert decoded[name].shape == t.shape, (name, decoded[name].shape, t.shape)
            n += 1
    with open(os.path.join(case["source"], "config.json")) as f:
        config = json.load(f)
    quantization = {
        "fp8": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
        "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]},
    }[case["kind"]]
    for out, tensors, extra in (("encoded", encoded, {"quantization_config": quantization}), ("decoded", decoded, {})):
        shutil.copytree(case["source"], case[out], ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
        save_file(tensors, os.path.join(case[out], "model.safetensors"), metadata={"format": "pt"})
        with open(os.path.join(case[out], "config.json"), "w") as f:
            json.dump(config | extra, f, indent=2)
    return {"error": "", "encoded": n}


if __name__ == "__main__":
    common.serve(handle)
