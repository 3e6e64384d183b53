"""Make the golden files of internal/decode with the reference implementations.

    python make_goldens.py

Run in the directory of this script, with torch 2.15.0 (CPU), transformers 5.23.0, compressed-tensors 0.20.0,
bitsandbytes 0.50.2, nvidia-modelopt 0.47.0 and safetensors 0.8.0; versions.json records what was used. Seed 0. No network is needed.

Each NAME.safetensors is a small checkpoint quantized by one method. Its __metadata__ holds the
quantization_config; a tensor "want:T" is what the reference decodes the logical tensor T to, before the cast to a
model's dtype. Codes cover all 256 bytes, scales hold zero, subnormal, negative and huge values.
"""

import importlib.metadata
import json
import os
import platform

os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes.functional as bnb
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationScheme
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

torch.set_num_threads(1)
torch.manual_seed(0)

SPECIAL = [0.0, -0.0, 1e-41, -3e-39, 1e38, -2.5e36, 1.1754944e-38, 0.3, 7e-3, 1.0]


def codes(*shape, dtype=torch.float8_e4m3fn):
    """Random bytes, all 256 of them first."""
    n = 1
    for d in shape:
        n *= d
    b = torch.randint(0, 256, (n,), dtype=torch.uint8)
    b[: min(n, 256)] = torch.arange(min(n, 256), dtype=torch.uint8)
    return b.reshape(shape).view(dtype)


def floats(*shape, dtype=torch.float32):
    """Scales of the usual size, with the special ones strewn in."""
    s = torch.rand(shape) * 0.01 + 1e-4
    flat = s.view(-1)
    for i, v in enumerate(SPECIAL):
        if 3 * i + 1 < flat.numel():
            flat[3 * i + 1] = v
    return s.to(dtype)


def exponents(*shape):
    """Biased exponents; the first three are the smallest, the largest and 255."""
    e = torch.randint(100, 140, shape, dtype=torch.uint8)
    e.view(-1)[:3] = torch.tensor([0, 254, 255], dtype=torch.uint8)
    return e


def save(name, config, stored, want):
    tensors = dict(stored) | {"want:" + k: v.contiguous() for k, v in want.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, name + ".safetensors",
              metadata={"quantization_config": json.dumps(config)})


fp8 = Fp8Dequantize(None)


def divided(w, s):
    """What transformers loads, for a grid that divides the shape."""
    return fp8._dequantize_one(w, s, output_dtype=torch.float32)


def blocks(w, s, block):
    """The same for any shape, by the backward pass of FP8Linear."""
    got = _dequantize_fp8_weight(w, s, block, torch.float32)
    if w.shape[-2] % block[0] == 0 and w.shape[-1] % block[1] == 0:
        torch.testing.assert_close(got, divided(w, s), rtol=0, atol=0, equal_nan=True)
    return got


def make_fp8():
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 8]}
    stored, want = {"model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}, {}
    for n, (rows, cols) in {"exact": (32, 24), "short": (37, 21), "wide": (5, 60), "tall": (50, 3)}.items():
        w, s = codes(rows, cols), floats(-(-rows // 16), -(-cols // 8))
        stored |= {f"{n}.weight": w, f"{n}.weight_scale_inv": s}
        want[f"{n}.weight"] = blocks(w, s, [16, 8])
    w, s = codes(40, 20), floats(3, 3, dtype=torch.bfloat16)
    stored |= {"bf16.weight": w, "bf16.weight_scale_inv": s}
    want["bf16.weight"] = blocks(w, s, [16, 8])
    w, s = codes(3, 20, 12), floats(3, 2, 2)
    stored |= {"experts.gate_up_proj": w, "experts.gate_up_proj_scale_inv": s}
    stored["experts.gate_up_proj_activation_scale"] = torch.ones(3)
    want["experts.gate_up_proj"] = blocks(w, s, [16, 8])
    save("fp8-blocks", config, stored, want)

    # DeepSeek-V3's own block size, absent from the config.
    a, a_s, b, b_s = codes(130, 3), floats(2, 1), codes(2, 140), floats(1, 2)
    save("fp8-128", {"quant_method": "fp8"},
         {"a.weight": a, "a.weight_scale_inv": a_s, "b.weight": b, "b.weight_scale_inv": b_s},
         {"a.weight": blocks(a, a_s, [128, 128]), "b.weight": blocks(b, b_s, [128, 128])})

    config = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    stored, want = {}, {}
    for n, w, s, suffix in [
        ("scalar", codes(20, 16), torch.tensor(0.0123, dtype=torch.bfloat16), "_scale_inv"),
        ("one", codes(17, 19), torch.tensor([3e-41]), "_scale_inv"),
        ("auto", codes(16, 16), torch.tensor(-2.7), "_scale"),
        ("rows", codes(24, 11), floats(24, 1), "_scale_inv"),
        ("e5m2", codes(16, 18, dtype=torch.float8_e5m2), torch.tensor([1.7e-3]), "_scale_inv"),
        ("experts", codes(3, 8, 12), floats(3, 2, 1), "_scale_inv"),
    ]:
        stored |= {f"{n}.weight": w, f"{n}.weight{suffix}": s}
        stored[f"{n}.{'input_scale' if n == 'auto' else 'activation_scale'}"] = torch.tensor(0.5)
        want[f"{n}.weight"] = divided(w, s)
    stored["attn.k_scale"] = torch.tensor(1.0)
    save("fp8-tensor", config, stored, want)

    config = {"quant_method": "fp8", "scale_fmt": "ue8m0", "expert_dtype": "fp4", "weight_block_size": [16, 16]}
    w, s = codes(48, 32), exponents(3, 2).view(torch.float8_e8m0fnu)
    packed, s4 = codes(16, 48, dtype=torch.int8), exponents(16, 3).view(torch.float8_e8m0fnu)
    stored = {"a.weight": w, "a.scale": s, "experts.0.w1.weight": packed, "experts.0.w1.scale": s4}
    save("fp8-ue8m0", config, stored, {"a.weight": divided(w, s), "experts.0.w1.weight": divided(packed, s4)})

    w, s = codes(12, 96), exponents(12, 3)
    config = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
    save("mxfp8", config, {"a.weight": w, "a.weight_scale_inv": s}, {"a.weight": divided(w, s)})


def make_compressed():
    def decompress(name, weights, tensors, input_activations=True):
        activations = {"num_bits": 8, "type": weights["type"], "dynamic": True, "strategy": "token"}
        scheme = {"targets": ["Linear"], "weights": weights, "input_activations": activations if input_activations else None}
        compressor = BaseCompressor.get_value_from_registry(name)
        return scheme, compressor.decompress(tensors, QuantizationScheme(**scheme))["weight"]

    f8 = {"num_bits": 8, "type": "float", "symmetric": True}
    stored, want, groups = {"lm_head.weight": torch.ones(3, 4, dtype=torch.bfloat16)}, {}, {}
    for n, weights, w, s in [
        ("tensor", {"strategy": "tensor"}, codes(20, 16), torch.tensor([0.0321])),
        ("tensor16", {"strategy": "tensor"}, codes(16, 16), torch.tensor([0.0321], dtype=torch.bfloat16)),
        ("channel", {"strategy": "channel"}, codes(33, 10), floats(33, 1)),
        ("channel16", {"strategy": "channel"}, codes(33, 10), floats(33, 1, dtype=torch.bfloat16)),
        ("half", {"strategy": "channel"}, codes(33, 10), (torch.rand(33, 1) * 300).to(torch.float16)),
        ("block", {"strategy": "block", "block_structure": [16, 8]}, codes(37, 21), floats(3, 3)),
        ("block16", {"strategy": "block", "block_structure": [16, 8]}, codes(32, 24), floats(2, 3, dtype=torch.bfloat16)),
    ]:
        scheme, got = decompress("float-quantized", f8 | weights, {"weight": w, "weight_scale": s})
        groups[f"group_{n}"] = scheme
        stored |= {f"{n}.weight": w, f"{n}.weight_scale": s, f"{n}.input_scale": torch.tensor([0.5])}
        want[f"{n}.weight"] = got
    stored["attn.k_scale"] = torch.ones(2, 1)
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
              "ignore": ["lm_head", "re:.*norm"], "config_groups": groups, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    save("ct-float", config, stored, want)

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    w, s = codes(30, 11, dtype=torch.int8), floats(30, 1, dtype=torch.bfloat16)
    scheme, got = decompress("int-quantized", weights, {"weight": w, "weight_scale": s})
    config = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": scheme}}
    save("ct-int", config, {"a.weight": w, "a.weight_scale": s}, {"a.weight": got})

    weights = f8 | {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    w, s = codes(6, 96), exponents(6, 3)
    scheme, got = decompress("mxfp8-quantized", weights, {"weight": w, "weight_scale": s}, False)
    config = {"quant_method": "compressed-tensors", "format": "mxfp8-quantized", "config_groups": {"group_0": scheme}}
    save("ct-mxfp8", config, {"a.weight": w, "a.weight_scale": s}, {"a.weight": got})


def decompress(name, weights, tensors, **more):
    scheme = {"targets": ["Linear"], "weights": weights} | more
    compressor = BaseCompressor.get_value_from_registry(name)
    return scheme, compressor.decompress(tensors, QuantizationScheme(**scheme))["weight"]


def integers(bits, *shape):
    """Random integers of so many bits, all of them first."""
    half = 1 << (bits - 1)
    v = torch.randint(-half, half, shape, dtype=torch.int8)
    v.view(-1)[: min(2 * half, v.numel())] = torch.arange(-half, half, dtype=torch.int8)[: v.numel()]
    return v


def make_packed():
    """Integers: every width, strategy and dtype of scales; zero points; columns in another order."""
    stored, want, groups = {}, {}, {}
    for n, bits, rows, cols, size, strategy, dtype, symmetric in [
        ("g32", 4, 24, 96, 32, "group", torch.bfloat16, True),
        ("g32half", 4, 7, 64, 32, "group", torch.float16, True),
        ("g8zero", 4, 21, 40, 8, "group", torch.bfloat16, False),
        ("g8zerofloat", 8, 19, 24, 8, "group", torch.float32, False),
        ("g8int8", 8, 9, 33 * 8, 8, "group", torch.bfloat16, True),
        ("channel", 4, 33, 29, None, "channel", torch.bfloat16, True),
        ("channelzero", 4, 35, 61, None, "channel", torch.float16, False),
        ("channel8", 8, 13, 27, None, "channel", torch.float32, True),
        ("tensor", 4, 6, 77, None, "tensor", torch.bfloat16, True),
        ("two", 2, 40, 48, 16, "group", torch.bfloat16, False),
        ("three", 3, 37, 96, 32, "group", torch.bfloat16, False),
        ("five", 5, 11, 70, 10, "group", torch.float32, False),
        ("six", 6, 11, 70, None, "channel", torch.bfloat16, False),
        ("seven", 7, 9, 100, None, "channel", torch.float16, True),
    ]:
        weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
        if size:
            weights["group_size"] = size
        lead = [1] if strategy == "tensor" else [rows, cols // size if size else 1]
        scale = torch.rand(lead).mul(300).to(dtype) if dtype == torch.float16 else floats(*lead, dtype=dtype)
        tensors = {"weight_packed": pack_to_int32(integers(bits, rows, cols), bits), "weight_scale": scale,
                   "weight_shape": torch.tensor([rows, cols])}
        if not symmetric:
            tensors["weight_zero_point"] = pack_to_int32(integers(bits, *lead), bits, packed_dim=0)
        scheme, got = decompress("pack-quantized", weights, tensors)
        groups[f"group_{n}"] = scheme | {"targets": [n, "re:.*experts"]}
        stored |= {f"{n}.{k}": v for k, v in tensors.items()}
        want[f"{n}.weight"] = got

    # A stack of experts, each packed by itself.
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16}
    tensors = {"weight_packed": pack_to_int32(integers(4, 3, 5, 48), 4), "weight_scale": floats(3, 5, 3, dtype=torch.bfloat16),
               "weight_shape": torch.tensor([3, 5, 48])}
    scheme, got = decompress("pack-quantized", weights, tensors)
    groups["group_stack"] = scheme
    stored |= {f"stack.{k}": v for k, v in tensors.items()}
    want["stack.weight"] = got

    # Columns in the order of activations, as compressed_tensors 0.9 decodes them (quantization/lifecycle/forward.py,
    # _process_quantization): sorted by their group, decoded, and put back.
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 12}
    tensors = {"weight_packed": pack_to_int32(integers(4, 10, 60), 4), "weight_scale": floats(10, 5, dtype=torch.bfloat16),
               "weight_shape": torch.tensor([10, 60]), "weight_zero_point": pack_to_int32(integers(4, 10, 5), 4, packed_dim=0)}
    index = torch.arange(60, dtype=torch.int32)[torch.randperm(60)] // 12
    order = torch.argsort(index)
    unpacked = unpack_from_int32(tensors["weight_packed"], 4, torch.Size([10, 60]))
    scheme, got = decompress("pack-quantized", weights, tensors | {"weight_packed": pack_to_int32(unpacked[:, order], 4)})
    groups["group_order"] = scheme | {"weights": weights | {"actorder": "group"}}
    stored |= {f"order.{k}": v for k, v in (tensors | {"weight_g_idx": index}).items()}
    want["order.weight"] = got[:, torch.argsort(order)]
    scheme, got = decompress("pack-quantized", weights, tensors)
    stored |= {f"unordered.{k}": v.clone() for k, v in tensors.items()} | {"unordered.weight_g_idx": torch.full([60], -1, dtype=torch.int32)}
    want["unordered.weight"] = got

    # Integers of 8 bits with zero points, one in a byte.
    weights = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}
    tensors = {"weight": codes_int8(30, 11), "weight_scale": floats(30, 1, dtype=torch.bfloat16), "weight_zero_point": codes_int8(30, 1)}
    scheme, got = decompress("int-quantized", weights, tensors)
    stored |= {f"naive.{k}": v for k, v in tensors.items()}
    want["naive.weight"] = got
    save("ct-pack", {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}, stored, want)


def codes_int8(*shape):
    return codes(*shape, dtype=torch.int8)


def make_packed_floats():
    """NVFP4, MXFP4 and MXFP6 of compressed-tensors."""
    stored, want = {}, {}
    nv = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    for n, global_scale in {"one": torch.tensor([1830.0]), "none": torch.tensor(977.3), "tiny": torch.tensor([3e-38])}.items():
        tensors = {"weight_packed": codes(21, 24, dtype=torch.uint8), "weight_scale": codes(21, 3), "weight_global_scale": global_scale}
        nv_scheme, got = decompress("nvfp4-pack-quantized", nv, tensors)
        stored |= {f"{n}.{k}": v for k, v in tensors.items()} | {f"{n}.input_global_scale": torch.ones(1)}
        want[f"{n}.weight"] = got
    groups = {"nv": nv_scheme | {"format": "nvfp4-pack-quantized"}}
    for n, bits, name in [("mx4", 4, "mxfp4-pack-quantized"), ("mx6", 6, "mxfp6-pack-quantized")]:
        weights = {"num_bits": bits, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
        tensors = {"weight_packed": codes(17, 96 * bits // 8, dtype=torch.uint8), "weight_scale": exponents(17, 3)}
        scheme, got = decompress(name, weights, tensors)
        groups[n] = scheme | {"format": name}
        stored |= {f"{n}.{k}": v for k, v in tensors.items()}
        want[f"{n}.weight"] = got
    save("ct-float4", {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}, stored, want)


def make_modelopt():
    """NVFP4 of modelopt, which multiplies by the second scale and decodes in float32."""
    stored, want = {"lm_head.weight": torch.ones(3, 4, dtype=torch.bfloat16)}, {}
    for n, lead, second in [("a", [20], torch.tensor(2.7e-4)), ("b", [3, 7], torch.tensor([1e-3, 0.3, 7e-5])), ("c", [5], torch.tensor([3e-5]))]:
        w, s = codes(*lead, 24, dtype=torch.uint8), codes(*lead, 3)
        q = NVFP4QTensor(torch.Size([*lead, 48]), torch.float32, w)
        double = second.view(-1, 1, 1) if n == "b" else second
        stored |= {f"{n}.weight": w, f"{n}.weight_scale": s, f"{n}.weight_scale_2": second, f"{n}.input_scale": torch.tensor(0.5)}
        want[f"{n}.weight"] = q.dequantize(dtype=torch.float32, scale=s, double_scale=double, block_sizes={-1: 16})
    w, s = codes(20, 16), torch.tensor(0.0123)
    stored |= {"fp8.weight": w, "fp8.weight_scale": s, "fp8.input_scale": torch.tensor(0.5), "attn.k_scale": torch.tensor(1.0)}
    want["fp8.weight"] = w.float() * s
    save("modelopt", {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
        "a": {"quant_algo": "NVFP4", "group_size": 16}, "fp8": {"quant_algo": "FP8"}}}, stored, want)


def make_fbgemm():
    # fbgemm's own kernels need a GPU and transformers has no dequantization of theirs: the scaled matrix is
    # what torch._scaled_mm computes with in FbgemmFp8Linear and FbgemmFp8Llama4TextExperts.
    w, s = codes(20, 16), floats(20, 1)
    up, up_s = codes(2, 6, 10), floats(2, 1, 10)
    down, down_s = codes(2, 6, 6), floats(2, 6, 1)
    stored = {"a.weight": w, "a.weight_scale": s, "experts.gate_up_proj": up, "experts.gate_up_proj_scale": up_s,
              "experts.down_proj": down, "experts.down_proj_scale": down_s}
    want = {"a.weight": w.float() * s, "experts.gate_up_proj": up.float() * up_s,
            "experts.down_proj": (down.float().transpose(1, 2) * down_s).transpose(1, 2)}
    save("fbgemm", {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, stored, want)


def make_mxfp4():
    stored, want = {"experts.gate_up_proj_bias": torch.zeros(2, 70, dtype=torch.bfloat16)}, {}
    for n, (experts, out, groups) in {"gate_up_proj": (2, 70, 2), "down_proj": (3, 5, 3)}.items():
        b, s = codes(experts, out, groups, 16, dtype=torch.uint8), exponents(experts, out, groups)
        stored |= {f"experts.{n}_blocks": b, f"experts.{n}_scales": s}
        want[f"experts.{n}"] = convert_moe_packed_tensors(b, s)
        # BF16 holds the products exactly, so that one more rounding gives what any other dtype of the model would.
        for dtype in torch.float16, torch.float32:
            torch.testing.assert_close(want[f"experts.{n}"].to(dtype), convert_moe_packed_tensors(b, s, dtype=dtype),
                                       rtol=0, atol=0, equal_nan=True)
    save("mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, stored, want)


def make_int8():
    stored, want = {}, {}
    for n, (rows, cols) in {"a": (30, 17), "b": (16, 16)}.items():
        w, s = codes(rows, cols, dtype=torch.int8), floats(rows) * 100
        stored |= {f"{n}.weight": w, f"{n}.SCB": s}
        want[f"{n}.weight"] = bnb.int8_vectorwise_dequant(w, s)
    stored["a.weight_format"] = torch.tensor(0, dtype=torch.uint8)
    save("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, stored, want)


def main():
    make_fp8()
    make_compressed()
    make_fbgemm()
    make_mxfp4()
    make_int8()
    make_packed()
    make_packed_floats()
    make_modelopt()
    versions = {p: importlib.metadata.version(p) for p in
                ["torch", "transformers", "compressed-tensors", "bitsandbytes", "nvidia-modelopt", "safetensors"]}
    versions["python"] = platform.python_version()
    with open("versions.json", "w") as f:
        json.dump(versions, f, indent=1)
        f.write("\n")


main()
