"""Hands converted checkpoints to the parsing code of vLLM's bitsandbytes plugin, without vLLM.

The plugin's modules are imported from its wheel; what they import of vllm are stand-ins, so only its pure functions can run: the
config, the skip rule, the iterator over names and states, the fusing of experts' states, the parameter shapes and the product.

A case: {"wheel", "source", "converted": paths; "type": "nf4" or "fp4"; "experts": the routed experts are packed}. In the answer
"states" counts the weights that the plugin finds quantized; each other field lists the modules that it would treat wrongly.
"""

import glob
import importlib.abc
import importlib.machinery
import json
import logging
import os
import re
import sys
import types

import common
import torch
from safetensors import safe_open


class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __or__(cls, other):
        return cls

    __ror__ = __or__


def stand_in(name):
    return Anything(name, (), {"__init__": lambda self, *a, **k: None})


class Packed(torch.nn.Parameter):
    def __new__(cls, data, **kwargs):
        return super().__new__(cls, data, requires_grad=False)

    def __init__(self, data, packed_dim, input_dim, output_dim, **kwargs):
        self.packed_dim, self.input_dim, self.output_dim = packed_dim, input_dim, output_dim


def weights(files, *_):
    for file in files:
        with safe_open(file, "pt") as f:
            for name in f.keys():
                yield name, f.get_tensor(name)


def set_attrs(tensor, attrs):
    for key, value in (attrs or {}).items():
        setattr(tensor, key, value)


def register(op_name, op_func, **_):
    torch.ops.vllm = types.SimpleNamespace(**{**vars(getattr(torch.ops, "vllm", types.SimpleNamespace())), op_name: op_func})


KNOWN = {
    "init_logger": logging.getLogger,
    "current_platform": types.SimpleNamespace(device_type="cpu", dispatch_key="CPU", is_rocm=lambda: False, is_cuda_alike=lambda: False),
    "safetensors_weights_iterator": weights,
    "set_weight_attrs": set_attrs,
    "register_weight_loader_v2_supported_method": lambda cls: cls,
    "direct_register_custom_op": register,
    "PackedvLLMParameter": Packed,
    "is_pp_missing_parameter": lambda name, model: False,
    "LinearBase": type("LinearBase", (torch.nn.Module,), {}),
    "RoutedExperts": type("RoutedExperts", (torch.nn.Module,), {"moe_config": None}),
    "FusedMoEMethodBase": type("FusedMoEMethodBase", (), {"__init__": lambda self, moe: None}),
    "QuantizationConfig": type("QuantizationConfig", (), {"get_from_keys": staticmethod(
        lambda config, keys: next((config[k] for k in keys if k in config), None))}),
}


class Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = KNOWN.get(name) or stand_in(name)
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "vllm" else None

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        pass


FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def fused(path):
    """The module of vLLM that holds the module of transformers."""
    for name, parts in FUSED.items():
        for part in parts:
            if path.endswith("." + part):
                return path[: -len(part)] + name
    return path


def handle(case):
    if not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())
        sys.path.insert(0, case["wheel"])
    from vllm_bnb_plugin import bitsandbytes_loader as loading
    from vllm_bnb_plugin.quantization import BitsAndBytesConfig, BitsAndBytesLinearMethod, BitsAndBytesMoEMethod
    from vllm_bnb_plugin.quantization.linear import _apply_bnb_4bit

    with open(os.path.join(case["converted"], "config.json")) as f:
        model_config = json.load(f)
    config = BitsAndBytesConfig.from_config(model_config["quantization_config"])
    files = sorted(glob.glob(os.path.join(case["converted"], "*.safetensors")))
    stored = dict(weights(files))
    dense, _ = common.load("causal", case["source"], dtype=torch.bfloat16)
    shapes = {n: tuple(p.shape) for n, p in weights(sorted(glob.glob(os.path.join(case["source"], "*.safetensors"))))}
    packed = {n[: -len(".weight")] for n in stored if f"{n}.quant_state.bitsandbytes__{case['type']}" in stored}

    loader = loading.BitsAndBytesModelLoader.__new__(loading.BitsAndBytesModelLoader)
    loader.__dict__.update(load_config=types.SimpleNamespace(use_tqdm_on_load=False), is_pool_model=False, weight_mapper=lambda name: name, load_8bit=False, pre_quant=True,
                           modules_mapping=loading.ParamMapping(FUSED), expert_params_mapping=[])
    out = {"error": "", "skip": [], "shape": [], "state": [], "product": [], "left": []}
    model = torch.nn.Module()
    linear = [n[: -len(".weight")] for n in shapes if n.endswith(".weight") and len(shapes[n]) == 2 and "embed" not in n and n != "lm_head.weight"]
    expert = [n for n in linear if ".experts." in n]
    groups = {}
    for n in linear:
        if n not in expert:
            groups.setdefault(fused(n), []).append(n)
    # the plugin's own choice of method for every Linear, against what is packed
    loader.target_modules = []
    for path, parts in groups.items():
        method = config.get_quant_method(KNOWN["LinearBase"](), path)
        if isinstance(method, BitsAndBytesLinearMethod) != all(p in packed for p in parts) or any(p in packed for p in parts) != all(p in packed for p in parts):
            out["skip"].append(path)
        if isinstance(method, BitsAndBytesLinearMethod):
            loader.target_modules += parts
    experts = sorted({n.split(".experts.")[0] + ".experts" for n in expert})
    for path in experts:
        if isinstance(config.get_quant_method(KNOWN["RoutedExperts"](), path), BitsAndBytesMoEMethod) != case["experts"]:
            out["skip"].append(path)
    loader.target_modules += expert
    # its iterator: names, tensors, states
    states = {}
    seen = dict(loader._quantized_4bit_generator(files, True, states))
    out["states"] = len(states)
    out["left"] = sorted((set(shapes) ^ set(seen)) | (({p + ".weight" for p in packed}) ^ set(states)))
    for name, state in states.items():
        if tuple(state.shape) != shapes[name] or state.quant_type != case["type"] or state.dtype != torch.bfloat16:
            out["state"].append(name)
    # its parameters, filled through its loaders, and its product
    method = BitsAndBytesLinearMethod(config)
    for path, parts in groups.items():
        if not all(p in packed for p in parts):
            continue
        ordered = [p for leaf in FUSED.get(path.split(".")[-1], [""]) for p in parts if p.endswith(leaf)]
        sizes = [shapes[p + ".weight"][0] for p in ordered]
        layer = KNOWN["LinearBase"]()
        method.create_weights(layer, shapes[ordered[0] + ".weight"][1], sizes, 0, 0, torch.bfloat16, weight_loader=None)
        offset = 0
        try:
            for p, size in zip(ordered, sizes):
                layer.weight.load_qkv_weight(seen[p + ".weight"], shard_offset=offset, shard_size=size)
                offset += size
        except (AssertionError, RuntimeError) as e:
            out["shape"].append(f"{path}: {e}")
            continue
        parent = model
        *above, leaf = path.split(".")
        for part in above:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(leaf, layer)
    if case["experts"]:
        count = 1 + max(int(re.search(r"\.experts\.(\d+)\.", n).group(1)) for n in expert)
        leaves = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"} if expert[0].endswith("_proj") else {"w1": "w1", "w2": "w2", "w3": "w3"}
        loader.expert_params_mapping = [("", f"experts.{i}.{leaf}.", i, key) for i in range(count) for key, leaf in leaves.items()]
        for path in experts:
            parent = model
            *above, leaf = path.split(".")
            for part in above:
                if not hasattr(parent, part):
                    parent.add_module(part, torch.nn.Module())
                parent = getattr(parent, part)
            parent.add_module(leaf, KNOWN["RoutedExperts"]())
        from bitsandbytes.functional import dequantize_4bit

        whole = {n: dequantize_4bit(seen[n].clone(), states[n]) for n in (e + ".weight" for e in expert)}
        for path, state in loader._fuse_moe_quant_states(model, states).items():
            base, kind = path.rsplit(".", 1)
            parts = [f"{base}.{i}.{leaves[k]}.weight" for i in range(count) for k in (("w1", "w3") if kind == "w13_weight" else ("w2",))]
            got = dequantize_4bit(torch.cat([seen[p] for p in parts]), state)
            if not torch.equal(got, torch.cat([whole[p] for p in parts])):
                out["product"].append(path)
    loader._bind_quant_states_to_params(model, loader._stack_quantization_states(model, states))
    ours, _ = common.load("causal", case["converted"], dtype="auto") if not case["experts"] else (None, None)
    for path, parts in groups.items():
        param = dict(model.named_parameters()).get(path + ".weight")
        if param is None or ours is None:
            continue
        ordered = [p for leaf in FUSED.get(path.split(".")[-1], [""]) for p in parts if p.endswith(leaf)]
        x = torch.randn(3, shapes[ordered[0] + ".weight"][1], generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
        want = []
        for p in ordered:
            m = ours.get_submodule(p)
            y = m(x)
            want.append(y - m.bias if m.bias is not None else y)
        want = torch.cat(want, 1)
        got = torch.empty_like(want)
        _apply_bnb_4bit(x, param, param.bnb_shard_offsets, got)
        if common.relative(got, want) > 1e-2:  # the nested scales are expanded first, and a bias rounds
            out["product"].append(path)
    return out


if __name__ == "__main__":
    common.serve(handle)
