"""Loads a file that holds one packed weight, with bitsandbytes and with transformers.

A case: {"file": the safetensors file; "weight": the tensor's name; "shape": [out, in]; "out": a directory to make}. The weight is
(i*i % 251 - 125)/1250 in bfloat16. In the directory, a tiny Llama has that weight, from that file, as its one quantized Linear.
"""

import json
import os
import shutil

import common
import safetensors.torch
import torch
import transformers

F = common.bnb.functional


def source(shape):
    i = torch.arange(shape[0] * shape[1])
    return ((i * i % 251 - 125).float() / 1250).to(torch.bfloat16).reshape(shape)


def model_of(case, tensors):
    """Writes the Llama, and returns its packed Linear as transformers loads it, and what was missing or unexpected."""
    out, inner = case["shape"]
    heads = 4
    config = transformers.LlamaConfig(hidden_size=inner, intermediate_size=64, num_hidden_layers=1, num_attention_heads=heads,
                                      num_key_value_heads=heads, head_dim=out // heads, vocab_size=64)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    module = case["weight"].removesuffix(".weight")
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != module]
    model.save_pretrained(case["out"])
    rest = {k: v for k, v in model.state_dict().items() if k != case["weight"]}
    os.remove(os.path.join(case["out"], "model.safetensors"))
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    safetensors.torch.save_file(rest, os.path.join(case["out"], files[0]), {"format": "pt"})
    shutil.copy(case["file"], os.path.join(case["out"], files[1]))
    with open(os.path.join(case["out"], "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(rest, files[0]) | dict.fromkeys(tensors, files[1])}, f)
    with open(os.path.join(case["out"], "config.json")) as f:
        config = json.load(f)
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                                     "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16",
                                     "llm_int8_skip_modules": linears}
    with open(os.path.join(case["out"], "config.json"), "w") as f:
        json.dump(config, f)
    model, keys = common.load("causal", case["out"], dtype="auto")
    return model.get_submodule(module), keys, sorted(common.linear4bit(model))


def handle(case):
    tensors = safetensors.torch.load_file(case["file"])
    name, w = case["weight"], source(case["shape"])
    state = F.QuantState.from_dict({k.removeprefix(name + "."): v for k, v in tensors.items() if k != name}, device=torch.device("cpu"))
    decoded = F.dequantize_4bit(tensors[name], state)
    codes, reference = F.quantize_4bit(w, quant_type="nf4", compress_statistics=False)
    # By hand: the table's value times the scale that the second level decodes to.
    scales = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    nibbles = torch.stack((codes.flatten() >> 4, codes.flatten() & 15), 1).flatten().long()
    want = (reference.code[nibbles] * scales.repeat_interleave(64)).to(torch.bfloat16).reshape(case["shape"])
    linear, keys, quantized = model_of(case, tensors)
    loaded = F.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    return {
        "codes_equal": torch.equal(codes, tensors[name]),
        "decoded_equal": torch.equal(decoded, want),
        "scales_off": ((scales - reference.absmax).abs().max() / reference.absmax.max()).item(),
        "loaded_equal": torch.equal(loaded, decoded),
        "keys": keys,
        "quantized": quantized,
    }


if __name__ == "__main__":
    common.serve(handle)
