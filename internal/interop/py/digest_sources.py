"""Writes small checkpoints whose every byte is known beforehand: structure from transformers and diffusers, values from integers.

A case {"list": true} asks for the names that this environment can make, {"name", "out": directory or file} makes one. Values come
from torch's Mersenne twister as integers and are scaled by powers of two, so that no processor's way to draw normal numbers counts.
"""

import glob
import json
import os
import shutil
import zlib

import common  # first: it chooses bitsandbytes' backend
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA = os.path.join(HERE, "..", "..", "..", "testdata", "llama")

FAMILIES = {
    "t5": ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "openai-gpt", "gpt_bigcode", "falcon", "bloom", "mixtral", "qwen3_moe",
           "olmoe", "granitemoe", "deepseek_v3", "gpt_oss", "llama4_text", "dbrx", "mamba", "jamba", "nemotron_h", "lfm2", "bert", "roberta",
           "deberta-v2", "albert", "xlnet", "t5", "bart", "whisper", "clip", "vit", "qwen2_vl", "llava", "gemma3", "llama-classifier"],
    "t4": ["mixtral", "qwen3_moe", "deepseek_v3", "qwen2_vl", "llama4_text"],
    "diffusers": ["flux", "unet", "unet-linear", "sd3", "autoencoder-kl", "controlnet"],
}


def draw(name, shape, dtype, scale=2.0**-27):
    """A bell of integers, scaled."""
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    total = torch.zeros(shape, dtype=torch.float64)
    for _ in range(4):
        total += torch.randint(-(1 << 20), 1 << 20, shape, generator=g)
    total[torch.randint(0, 97, shape, generator=g) == 0] *= 4  # a few that stand out
    return (total * scale).to(dtype)


def integers(name, shape, low, high, dtype):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))).to(dtype)


def refill(directory):
    """Puts drawn values in the place of all floats."""
    for path in sorted(glob.glob(os.path.join(directory, "**", "*.safetensors"), recursive=True)):
        with safe_open(path, "pt") as f:
            metadata = f.metadata()
        tensors = {k: draw(k, v.shape, v.dtype) if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(tensors, path, metadata=metadata)


def write(out, tensors, config=None, shards=1):
    """A model directory, or with no config a bare file."""
    if config is None:
        save_file(tensors, out, metadata={"format": "pt"})
        return
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    names = list(tensors)
    files = {}
    for i in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[i::shards]}
        files |= {n: file for n in part}
        save_file(part, os.path.join(out, file), metadata={"format": "pt"})
    if shards > 1:
        with open(os.path.join(out, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": files}, f)


def llama(dtype=None):
    """The repository's own Llama: its config and tensors."""
    with open(os.path.join(LLAMA, "config.json")) as f:
        config = json.load(f)
    tensors = {}
    for path in sorted(glob.glob(os.path.join(LLAMA, "*.safetensors"))):
        tensors |= load_file(path)
    if dtype:
        config["dtype"] = str(dtype).removeprefix("torch.")
        # Values that the narrower types do not hold.
        tensors = {k: v.to(dtype) * 1.0009765625 if dtype.itemsize > 2 else v.to(dtype) for k, v in tensors.items()}
    return config, tensors


def bare(dtype, wide=1000):
    t = {"layers.0.up.weight": (1500, wide), "layers.0.down.weight": (200, 7), "layers.1.up.weight": (33, 37), "layers.1.one.weight": (1, 1),
         "layers.1.bias": (129,), "embed.weight": (40, 24), "layers.1.norm.weight": (65,), "layers.2.none.weight": (0, 64), "temperature": (),
         "layers.2.conv.weight": (4, 3, 2)}
    out = {k: draw(k, s, dtype) for k, s in t.items()}
    out["position_ids"] = torch.arange(77)
    out["mask"] = integers("mask", (5, 5), 0, 2, torch.bool)
    return out


def gpt2(n=384):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": n, "n_layer": 1, "n_head": 12, "vocab_size": 64, "n_positions": 32,
              "dtype": "float32"}
    shapes = {"wte.weight": (64, n), "wpe.weight": (32, n), "h.0.ln_1.weight": (n,), "h.0.ln_1.bias": (n,), "h.0.attn.c_attn.weight": (n, 3 * n),
              "h.0.attn.c_attn.bias": (3 * n,), "h.0.attn.c_proj.weight": (n, n), "h.0.attn.c_proj.bias": (n,), "h.0.ln_2.weight": (n,),
              "h.0.ln_2.bias": (n,), "h.0.mlp.c_fc.weight": (n, 4 * n), "h.0.mlp.c_fc.bias": (4 * n,), "h.0.mlp.c_proj.weight": (4 * n, n),
              "h.0.mlp.c_proj.bias": (n,), "ln_f.weight": (n,), "ln_f.bias": (n,)}
    return config, {k: draw(k, s, torch.float32) for k, s in shapes.items()}


def llama4(hidden=320, inner=448, experts=3):
    config = {"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "hidden_size": hidden, "intermediate_size": inner,
              "intermediate_size_mlp": inner, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 80,
              "num_local_experts": experts, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "vocab_size": 64, "dtype": "bfloat16"}
    p = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (64, hidden), "lm_head.weight": (64, hidden), "model.norm.weight": (hidden,),
              p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,),
              p + "self_attn.q_proj.weight": (320, hidden), p + "self_attn.k_proj.weight": (160, hidden), p + "self_attn.v_proj.weight": (160, hidden),
              p + "self_attn.o_proj.weight": (hidden, 320), p + "feed_forward.router.weight": (experts, hidden),
              p + "feed_forward.experts.gate_up_proj": (experts, hidden, 2 * inner), p + "feed_forward.experts.down_proj": (experts, inner, hidden),
              p + "feed_forward.shared_expert.gate_proj.weight": (inner, hidden), p + "feed_forward.shared_expert.up_proj.weight": (inner, hidden),
              p + "feed_forward.shared_expert.down_proj.weight": (hidden, inner)}
    return config, {k: draw(k, s, torch.bfloat16) for k, s in shapes.items()}


def encoded(tensors, select, encode):
    out = {}
    for k, v in tensors.items():
        out |= encode(k, v) if select(k, v) else {k: v}
    return out


def layer_matrix(k, v):
    return v.ndim == 2 and ".layers." in k


def codes8(k, v):
    c = integers(k, tuple(v.shape), 0, 256, torch.uint8)
    c[(c & 127) == 127] -= 1  # E4M3's two NaNs
    return c.view(torch.float8_e4m3fn)


def scales(k, shape, dtype=torch.float32):
    return (integers(k + "scale", shape, 1, 1 << 20, torch.float64) * 2.0**-32).to(dtype)


def fp8_blocks(k, v):
    return {k: codes8(k, v), k + "_scale_inv": scales(k, (-(-v.shape[0] // 128), -(-v.shape[1] // 128)))}


def fp8_tensor(k, v):
    return {k: codes8(k, v), k + "_scale_inv": scales(k, ())}


def channels(k, v):
    return {k: codes8(k, v), k + "_scale": scales(k, (v.shape[0], 1), torch.bfloat16)}


def channels_f32(k, v):
    return {k: codes8(k, v), k + "_scale": scales(k, (v.shape[0], 1))}


def int8_channels(k, v):
    return {k: integers(k, tuple(v.shape), -127, 128, torch.int8), k + "_scale": scales(k, (v.shape[0], 1), torch.bfloat16)}


def llm_int8(k, v, turn=False):
    shape = tuple(reversed(v.shape)) if turn else tuple(v.shape)
    return {k: integers(k, shape, -127, 128, torch.int8), k.removesuffix("weight") + "SCB": scales(k, shape[:1]),
            k.removesuffix("weight") + "weight_format": torch.zeros((), dtype=torch.uint8)}


def fixed_encoded(select, encode, quantization, model=llama):
    def make(out):
        config, tensors = model()
        write(out, encoded(tensors, select, encode), config | {"quantization_config": quantization})
    return make


def gpt_oss_mxfp4(out):
    import families_models as models

    models.model_of("gpt_oss").save_pretrained(out)
    refill(out)
    path = os.path.join(out, "model.safetensors")

    def encode(k, v):
        experts, width, rows = v.shape
        return {k + "_blocks": integers(k, (experts, rows, width // 32, 16), 0, 256, torch.uint8),
                k + "_scales": integers(k + "s", (experts, rows, width // 32), 110, 130, torch.uint8)}

    tensors = encoded(load_file(path), lambda k, v: k.endswith((".experts.gate_up_proj", ".experts.down_proj")), encode)
    save_file(tensors, path, metadata={"format": "pt"})
    edit(out, quantization_config={"quant_method": "mxfp4"})


def edit(out, **more):
    path = os.path.join(out, "config.json")
    with open(path) as f:
        config = json.load(f)
    with open(path, "w") as f:
        json.dump(config | more, f, indent=2)


def plain(model, shards=1, **change):
    def make(out):
        config, tensors = model()
        write(out, tensors, config | change, shards)
    return make


def bare_file(dtype, spoil=None, **args):
    def make(out):
        tensors = bare(dtype, **args)
        if spoil:
            spoil(tensors)
        write(out, tensors)
    return make


def spoil(name, index, value):
    def f(tensors):
        tensors[name].view(-1)[index] = value
    return f


def sentences(out):
    import families_models as models

    models.model_of("bert").base_model.save_pretrained(out)
    for sub in ("1_Pooling", "2_Dense"):
        os.makedirs(os.path.join(out, sub))
    kind = "sentence_transformers.models."
    with open(os.path.join(out, "modules.json"), "w") as f:
        json.dump([{"idx": 0, "name": "0", "path": "", "type": kind + "Transformer"}, {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind + "Pooling"},
                   {"idx": 2, "name": "2", "path": "2_Dense", "type": kind + "Dense"}], f)
    with open(os.path.join(out, "1_Pooling", "config.json"), "w") as f:
        json.dump({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}, f)
    with open(os.path.join(out, "2_Dense", "config.json"), "w") as f:
        json.dump({"in_features": 64, "out_features": 32, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}, f)
    save_file({"linear.weight": draw("linear", (32, 64), torch.float32), "linear.bias": draw("bias", (32,), torch.float32)},
              os.path.join(out, "2_Dense", "model.safetensors"), metadata={"format": "pt"})
    refill(out)


FIXED = {
    "llama-shipped": lambda out: shutil.copytree(LLAMA, out),
    "llama-f16": plain(lambda: llama(torch.float16)),
    "llama-f32": plain(lambda: llama(torch.float32)),
    "llama-f64": plain(lambda: llama(torch.float64)),
    "llama-sharded": plain(llama, shards=3),
    "llama-unknown": plain(llama, model_type="nothing_known"),
    "bare-bf16.safetensors": bare_file(torch.bfloat16),
    "bare-f16.safetensors": bare_file(torch.float16),
    "bare-f32.safetensors": bare_file(torch.float32),
    "bare-f64.safetensors": bare_file(torch.float64),
    "bare-odd.safetensors": bare_file(torch.float32, wide=1001),
    "bare-nan.safetensors": bare_file(torch.float32, spoil("layers.0.up.weight", 777777, float("nan"))),
    "bare-large.safetensors": bare_file(torch.float32, spoil("layers.0.up.weight", 777777, 3.4e38)),
    "bare-norm-nan.safetensors": bare_file(torch.bfloat16, spoil("layers.1.norm.weight", 7, float("nan"))),
    "gpt2-wide": plain(gpt2),
    "llama4-wide": plain(llama4),
    "fp8-blocks": fixed_encoded(layer_matrix, fp8_blocks, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "fp8-tensor": fixed_encoded(layer_matrix, fp8_tensor, {"quant_method": "fp8", "weight_block_size": None}),
    "fp8-channels": fixed_encoded(layer_matrix, channels, {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
        "group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}),
    "fbgemm": fixed_encoded(layer_matrix, channels_f32, {"quant_method": "fbgemm_fp8"}),
    "int8-channels": fixed_encoded(layer_matrix, int8_channels, {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {
        "group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}}),
    "gptq": plain(llama, quantization_config={"quant_method": "gptq", "bits": 4}),
    "llm-int8": fixed_encoded(layer_matrix, llm_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "llm-int8-gpt2": fixed_encoded(lambda k, v: v.ndim == 2 and k.startswith("h."), lambda k, v: llm_int8(k, v, True),
                                   {"quant_method": "bitsandbytes", "load_in_8bit": True}, gpt2),
    "mxfp4": gpt_oss_mxfp4,
    "sentences": sentences,
}


def handle(case):
    if case.get("list"):
        env = case["list"]
        names = [env + "-" + f for f in FAMILIES[env]]
        return {"error": "", "names": names + (list(FIXED) if env == "t5" else [])}
    name, out = case["name"], case["out"]
    if name in FIXED:
        FIXED[name](out)
        return {"error": ""}
    env, family = name.split("-", 1)
    if env == "diffusers":
        import components

        components.handle({"model": family, "out": out, "max_shard_size": "200KB" if family == "flux" else "10GB"})
    else:
        import families_models as models

        models.model_of(family).save_pretrained(out)
    refill(out)
    return {"error": ""}


if __name__ == "__main__":
    common.serve(handle)
