"""Loads experts in 4 bits as Unsloth does: by the functions of unsloth_zoo, which replace parts of transformers 5.

A case: {"program": nf4kit; "family": of families_models.py or of those added here; "out": a directory to work in; "flags"; "dtype"}. It
makes the model, converts it with --target unsloth and loads that in dtype, bfloat16 if a case does not say. The answer counts the stacks
of experts of the model that came to be in 4 bits ("packed"), those that stay in 16 bits ("kept"), the experts that are Linears in 4 bits
("linears"), and how many of the first and the last have, bit for bit, the values that bitsandbytes decodes of the file ("equal"); it has
the keys that loading missed, what convert said ("said"), and how far logits of Unsloth's forward are from those of transformers with
the decoded weights ("forward", relative). With "train" it takes steps of PEFT's LoRA on the stacks of experts: "losses" has the loss before
each, and "reached" how many of the adapters' matrices on them got a gradient.

Of experts that lie one by one (--moe per-expert) Unsloth's loading rounds the tables of the scales to the dtype of the model, so that
these have the values in float32 alone.

unsloth_zoo asks for a GPU when it is imported. Only its parts that need none are: its packages are modules with a path and no code.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import types

import common
import families_models
import peft
import torch
from safetensors.torch import load_file

compiled = tempfile.TemporaryDirectory()  # else a directory where it runs
os.environ["UNSLOTH_COMPILE_LOCATION"] = compiled.name
site = importlib.util.find_spec("unsloth_zoo").submodule_search_locations[0]
for name in ("unsloth_zoo", "unsloth_zoo.temporary_patches"):
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(site, *name.split(".")[1:])]
    package.__file__ = os.path.join(package.__path__[0], "__init__.py")
    sys.modules[name] = package
zoo = importlib.import_module("unsloth_zoo.temporary_patches.moe_utils_bnb4bit")
for patch in ("quantize_convert", "quantizer_param_needs_quantization", "quantizer_process_model", "quantizer_weight_conversions",
              "model_conversion_mapping", "keep_fused_experts", "dequantize_plain_params"):
    getattr(zoo, "patch_bnb4bit_" + patch)()

F = common.bnb.functional
Family = families_models.Family
families_models.FAMILIES["qwen3_5_moe_text"] = Family("Qwen3_5MoeForCausalLM", **families_models.MIXED)
families_models.FAMILIES["gemma4_text"] = Family(
    "Gemma4ForCausalLM", enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=64, num_global_key_value_heads=2,
    global_head_dim=16)

EXPERT = re.compile(r"layers\.(\d+)\.(?:.*\.)?experts\.(?:(\d+)\.)?(\w+?)(?:\.weight)?$")
LEAF = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def decoded(path):
    """What the file's codes stand for: {(layer, "gate_up_proj" or "down_proj"): stack of experts}, {(layer, leaf, expert): matrix}"""
    tensors = {}
    for file in sorted(os.listdir(path)):
        if file.endswith(".safetensors"):
            tensors |= load_file(os.path.join(path, file))
    single, out = {}, {}
    for name in tensors:
        m = EXPERT.search(name)
        if m is None or name + ".absmax" not in tensors:
            continue
        parts = {"weight" + k[len(name):]: v for k, v in tensors.items() if k.startswith(name + ".")}
        value = F.dequantize_4bit(tensors[name], F.QuantState.from_dict(parts, device="cpu"))
        layer, expert, leaf = m.groups()
        if expert is None:
            out[layer, leaf] = value
        else:
            single[layer, LEAF.get(leaf, leaf), int(expert)] = value
    for layer in {k[0] for k in single}:
        n = 1 + max(e for l, _, e in single if l == layer)
        out[layer, "down_proj"] = torch.stack([single[layer, "down_proj", e] for e in range(n)])
        out[layer, "gate_up_proj"] = torch.stack([torch.cat([single[layer, "gate_proj", e], single[layer, "up_proj", e]]) for e in range(n)])
    return out, single


def experts(model):
    """(layer, leaf, parameter) of the stacks of a model."""
    for name, p in model.named_parameters():
        m = EXPERT.search(name)
        if m is not None and m[2] is None and m[3] in ("gate_up_proj", "down_proj"):
            yield m[1], m[3], p


def load(cls, path, dtype):
    model, info = cls.from_pretrained(path, output_loading_info=True, local_files_only=True, dtype=dtype)
    return model, sorted(str(x) for k in ("missing", "unexpected", "mismatched") for x in info[k + "_keys"])


def train(model):
    """Losses of some steps with adapters on the experts' stacks, as Unsloth has PEFT's ParamWrapper run them."""
    for patch in ("param_wrapper_4bit_expert_shape", "param_wrapper_merge_4bit"):
        getattr(zoo, "patch_peft_" + patch)()
    importlib.import_module("unsloth_zoo.temporary_patches.moe_utils").patch_param_wrapper_for_moe()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    torch.manual_seed(0)
    model = peft.get_peft_model(model, config).train()
    adapters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(adapters.values(), lr=1e-2)
    ids, losses, reached = torch.tensor([common.PROMPT]), [], set()
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(float(loss))
        reached |= {n for n, p in adapters.items() if ".experts." in n and p.grad is not None and bool(p.grad.any())}
        optimizer.step()
        optimizer.zero_grad()
    return losses, len(reached)


def handle(case):
    source, packed, plain = (os.path.join(case["out"], x) for x in ("source", "packed", "plain"))
    model = families_models.model_of(case["family"])
    model.save_pretrained(source)
    done = subprocess.run([case["program"], "convert", "--no-error", "--target", "unsloth", *(case.get("flags") or []), source, packed],
                          capture_output=True, text=True)
    out = {"error": "", "said": done.stdout + done.stderr, "packed": 0, "equal": 0, "kept": 0, "linears": 0, "keys": [], "forward": -1}
    if done.returncode:
        out["error"] = out["said"]
        return out
    dtype = getattr(torch, case.get("dtype") or "bfloat16")
    loaded, out["keys"] = load(type(model), packed, dtype)
    want, single = decoded(packed)
    for name, module in common.linear4bit(loaded).items():
        m = EXPERT.search(name)
        if m is not None and m[2] is not None:
            out["linears"] += 1
            got, there = F.dequantize_4bit(module.weight.data, module.weight.quant_state), single.get((m[1], m[3], int(m[2])))
            out["equal"] += there is not None and got.shape == there.shape and torch.equal(got, there.to(got.dtype))
    for layer, leaf, p in experts(loaded):
        if not isinstance(p, common.bnb.nn.Params4bit):
            out["kept"] += 1
            continue
        out["packed"] += 1
        got, there = zoo._dequantize_bnb4bit_expert_weights(p, torch.bfloat16), want.get((layer, leaf))
        out["equal"] += there is not None and got.shape == there.shape and torch.equal(got, there.to(got.dtype))
    if out["packed"]:
        subprocess.run([case["program"], "dequantize", "-q", packed, plain], check=True)
        if dtype != torch.bfloat16:
            loaded, _ = load(type(model), packed, torch.bfloat16)
        reference, _ = load(type(model), plain, torch.bfloat16)
        out["forward"] = common.relative(common.forward(loaded), common.forward(reference))
    if case.get("train"):
        out["losses"], out["reached"] = train(loaded)
    return out


if __name__ == "__main__":
    common.serve(handle)
