"""Record what the loaders' own skip rules say of (list, module path) pairs.

The rules run are the real ones: _replace_with_bnb_linear of transformers 4.57
over a module tree with one nn.Linear at the path, should_convert_module of
the installed 5.21+ and of 5.20.2, diffusers' _replace_with_bnb_linear, and
is_layer_skipped_bnb of vllm-bnb-plugin. The last three come from wheels
fetched with `pip download --no-deps`.

Usage (5.x python): rules_golden.py --t4 PYTHON4 --wheels DIR > testdata/rules.json
"""

import argparse
import ast
import glob
import json
import os
import random
import subprocess
import sys
import zipfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

LISTS = [
    [], ["lm_head"], ["lm_head", "gate"], ["lm_head", "mlp.gate"], ["lm_head", "visual"],
    ["lm_head", "visual", "model.visual"], ["model.visual"], ["embed_out", "lm_head"],
    ["cls.predictions.decoder"], ["cls.predictions"], ["cls"], ["pooler", "pooler.dense"], ["bert.pooler"],
    ["model.layers.1"], ["model.layers.1."], ["model.layers.1.mlp.gate"], ["model.layers.10.self_attn"],
    ["layers.1"], ["1"], ["0"], ["experts"], ["mlp.experts"], ["shared_expert"], ["wo"], ["o"], ["proj"],
    ["q_proj", "k_proj", "v_proj"], ["qkv_proj"], ["self_attn"], ["model"], ["model."], [""], ["."],
    ["model.language_model.layers.0.mlp"], ["language_model.model.layers.0"], ["multi_modal_projector"],
    ["model.multi_modal_projector", "multi_modal_projector"], ["vision_tower", "model.vision_tower"],
    ["head"], ["lm_head.decoder"], ["lm_head.dense", "lm_head.decoder"], ["classifier", "score", "qa_outputs"],
    # regular expressions, as users of transformers 5 write them
    [r"model.layers.*"], [r"model\.layers\.\d+\.mlp\.gate"], [r"model\.layers\.(0|1)\.self_attn"], [r".*gate"],
    [r".*\.gate$"], [r"lm_head$"], [r"^lm_head"], [r"(lm|embed)_head"], [r"model\.layers\.1[0-9]"], [r"model\.visual\..*"],
    [r"model\.(visual|language_model)\."], [r"a|b"], [r"model|lm_head"], [r"model\.layers\.\d"], [r"[a-z]+"], [r"\w+\.layers"],
    [r"model\.layers\.1\.?"], [r"model\."], [r".*\."], [r"model\.layers\.[02]\."],
]
PATHS = [
    "lm_head", "embed_out", "model.lm_head", "language_model.lm_head", "lm_head.dense", "lm_head.decoder",
    "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "model.layers.10.self_attn.k_proj",
    "model.layers.11.mlp.gate_proj", "model.layers.1.mlp.gate", "model.layers.1.mlp.gate_proj",
    "model.layers.1.mlp.shared_expert_gate", "model.layers.1.mlp.shared_expert.up_proj",
    "model.layers.1.mlp.shared_experts.up_proj", "model.layers.1.mlp.experts.3.down_proj",
    "model.layers.1.block_sparse_moe.gate", "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj",
    "visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv", "visual.merger.mlp.0", "model.visual.merger.mlp.2",
    "vision_tower.encoder.layers.0.mlp.fc1", "model.vision_tower.encoder.layers.0.mlp.fc1",
    "multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1",
    "model.language_model.layers.0.mlp.down_proj", "language_model.model.layers.0.mlp.down_proj",
    "language_model.model.layers.10.mlp.down_proj",
    "cls.predictions.decoder", "cls.predictions.transform.dense", "cls.seq_relationship", "bert.pooler.dense",
    "pooler.dense", "bert.encoder.layer.1.output.dense", "encoder.layer.11.output.dense", "classifier", "score",
    "classifier.out_proj", "qa_outputs", "encoder.block.0.layer.1.DenseReluDense.wo", "decoder.block.0.layer.0.SelfAttention.o",
    "transformer.h.0.attn.c_attn", "a", "b.a", "ab", "model", "amodel.x", "head", "x.1", "x.1.y",
]


def pairs():
    rng = random.Random(20260707)
    out = [(entries, path) for entries in LISTS for path in PATHS]
    words = ["model", "layers", "0", "1", "10", "mlp", "gate", "gate_proj", "visual", "a", "x1"]
    for _ in range(700):
        path = ".".join(rng.choice(words) for _ in range(rng.randint(1, 5)))
        parts = path.split(".")
        entries = []
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.5:
                i = rng.randrange(len(parts))
                j = rng.randint(i + 1, len(parts))
                e = ".".join(parts[i:j])
                if rng.random() < 0.3:
                    e = e[: rng.randint(1, len(e))]
            else:
                e = ".".join(rng.choice(words) for _ in range(rng.randint(1, 2)))
            entries.append(e)
        out.append((entries, path))
    return out


def module_tree(path):
    import torch.nn as nn

    root = nn.Module()
    m = root
    parts = path.split(".")
    for p in parts[:-1]:
        child = nn.Module()
        m.add_module(p, child)
        m = child
    m.add_module(parts[-1], nn.Linear(4, 4))
    return root


def replaced(replace, entries, path, config):
    root = module_tree(path)
    config.llm_int8_skip_modules = entries
    replace(root, list(entries), quantization_config=config)
    return type(root.get_submodule(path)).__name__ != "Linear"


def t4_child():
    import transformers
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import _replace_with_bnb_linear

    config = BitsAndBytesConfig(load_in_4bit=True)
    got = [not replaced(_replace_with_bnb_linear, e, p, config) for e, p in json.load(sys.stdin)]
    json.dump({"version": transformers.__version__, "skipped": got}, sys.stdout)


def from_wheel(wheels, pattern, member):
    (path,) = glob.glob(os.path.join(wheels, pattern))
    with zipfile.ZipFile(path) as z:
        return z.read(member).decode()


def function(source, name, env):
    """Compile one function of a module without importing what surrounds it."""
    tree = ast.parse(source)
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    exec(compile(ast.Module(body, []), name, "exec"), env)
    return env[name]


def main():
    if sys.argv[1:] == ["--t4-child"]:
        t4_child()
        return
    ap = argparse.ArgumentParser()
    ap.add_argument("--t4", required=True)
    ap.add_argument("--wheels", required=True)
    a = ap.parse_args()
    import re
    from inspect import signature

    import bitsandbytes as bnb
    import torch
    import torch.nn as nn
    import transformers
    from accelerate import init_empty_weights
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.quantizers_utils import should_convert_module as rule521

    rule520 = function(from_wheel(a.wheels, "transformers-5.20.2-*.whl", "transformers/quantizers/quantizers_utils.py"),
                       "should_convert_module", {"re": re})
    vllm = function(from_wheel(a.wheels, "vllm_bnb_plugin-0.0.3-*.whl", "vllm_bnb_plugin/quantization/utils.py"),
                    "is_layer_skipped_bnb", {})
    diffusers = function(from_wheel(a.wheels, "diffusers-0.42.1-*.whl", "diffusers/quantizers/bitsandbytes/utils.py"),
                         "_replace_with_bnb_linear",
                         {"nn": nn, "torch": torch, "bnb": bnb, "signature": signature, "init_empty_weights": init_empty_weights})
    todo = pairs()
    child = subprocess.run([a.t4, os.path.abspath(__file__), "--t4-child"], input=json.dumps(todo), check=True,
                           capture_output=True, text=True)
    t4 = json.loads(child.stdout[child.stdout.index('{"version"'):])
    config = BitsAndBytesConfig(load_in_4bit=True)
    cases = []
    for (entries, path), skipped4 in zip(todo, t4["skipped"]):
        same = not replaced(diffusers, entries, path, config)
        assert same == skipped4, ("diffusers differs from transformers 4.57", entries, path)
        got = {"list": entries, "path": path, "skipped": "".join(
            "1" if x else "0" for x in (skipped4, not rule520(path, entries), not rule521(path, entries), vllm(path, entries)))}
        cases.append(got)
    print('{"versions": ' + json.dumps({
        "transformers4": t4["version"], "transformers520": "5.20.2", "transformers5": transformers.__version__,
        "diffusers": "0.42.1", "vllm-bnb-plugin": "0.0.3", "bitsandbytes": bnb.__version__}) + ',')
    print('"rules": ["transformers 4.57 and diffusers", "transformers 5.0-5.20", "transformers 5.21 and later", "vLLM and SGLang"],')
    # The fixed lists share their paths; what follows has one path each.
    fixed = len(LISTS) * len(PATHS)
    print('"paths": ' + json.dumps(PATHS) + ",")
    print('"lists": [')
    print(",\n".join(json.dumps({"list": e, "skipped": " ".join(
        c["skipped"] for c in cases[i * len(PATHS):(i + 1) * len(PATHS)])}) for i, e in enumerate(LISTS)))
    print('], "cases": [')
    print(",\n".join(json.dumps(c) for c in cases[fixed:]))
    print("]}")


if __name__ == "__main__":
    main()
