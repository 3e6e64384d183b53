"""Write the table of diffusers' model classes (data/diffusers.txt), or check package arch against the installed diffusers.

For every ModelMixin class it builds the model on the meta device with its
default arguments, with those of published checkpoints (SETTINGS) where the
defaults do not build or do not show every module, and with each boolean of
these flipped, and runs diffusers' own bitsandbytes quantizer over it.

Usage: components.py --out diffusers.txt
       components.py --check CLASSIFY [--few] [CLASS...]    CLASSIFY: the built gen/classify; --few flips no boolean,
                                                     and is every third class

The check asks of every class and variant that the tensors which arch quantizes
are the modules that the quantizer replaces, and that with the skip list which
arch writes for every other one of them kept it replaces the other half.
Exit status 1 if anything differs.
"""

import collections
import inspect
import json
import os
import sys
import warnings
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import bitsandbytes as bnb  # noqa: E402
import diffusers  # noqa: E402
import torch  # noqa: E402
from ask import Arch  # noqa: E402
from diffusers import BitsAndBytesConfig, ModelMixin  # noqa: E402
from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer  # noqa: E402

diffusers.logging.set_verbosity_error()

SDXL = {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816}
SDXL_UNET = {**SDXL, "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}
SDXL_NET = {**SDXL, "controlnet_conditioning_channel_order": "rgb"}
# DeepFloyd IF.
IF = {"down_block_types": ["ResnetDownsampleBlock2D"] + 3 * ["SimpleCrossAttnDownBlock2D"], "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
      "up_block_types": 3 * ["SimpleCrossAttnUpBlock2D"] + ["ResnetUpsampleBlock2D"], "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj",
      "addition_embed_type": "text", "cross_attention_norm": "group_norm", "only_cross_attention": False, "time_embedding_act_fn": "gelu",
      "resnet_time_scale_shift": "scale_shift", "class_embed_type": "timestep"}
VECTORS = {"num_vector_embeds": 4096, "sample_size": 32, "num_embeds_ada_norm": 100, "norm_type": "ada_norm", "cross_attention_dim": 512}

# Arguments in place of the defaults; {} is the defaults themselves.
SETTINGS = {
    "AudioLDM2ProjectionModel": [{"text_encoder_dim": 512, "text_encoder_1_dim": 1024, "langauge_model_dim": 768,
                                  "use_learned_position_embedding": v, "max_seq_length": 64} for v in (None, True)],
    "AutoencoderKLHunyuanImage": [{"in_channels": 3, "out_channels": 3, "latent_channels": 64, "layers_per_block": 2, "sample_size": 2048,
                                   "block_out_channels": [128, 256, 512, 512, 1024, 1024], "spatial_compression_ratio": 32}],
    "ControlNetModel": [{}, SDXL_NET, {"class_embed_type": "timestep"}, {"num_class_embeds": 10}],
    "ControlNetUnionModel": [SDXL_NET],
    "ControlNetXSAdapter": [{}, {"cross_attention_dim": 2048, "use_linear_projection": True}],
    "Cosmos3OmniTransformer": [{}, {"action_dim": 8, "action_gen": True, "sound_dim": 64, "sound_gen": True}],
    "DreamLiteTransformer2DModel": [{"in_channels": 320, "cross_attention_dim": 768}],
    "EasyAnimateTransformer3DModel": [{"in_channels": 16, "out_channels": 16, "patch_size": 2, "text_embed_dim_t5": v} for v in (None, 2048)],
    "HiDreamImageTransformer2DModel": [{"in_channels": 16, "patch_size": 2, "axes_dims_rope": [64, 32, 32], "max_resolution": [128, 128],
                                        "caption_channels": [4096, 4096], "llama_layers": list(range(48)), "num_routed_experts": n} for n in (4, 0)],
    "HunyuanDiT2DControlNetModel": [{"in_channels": 4, "patch_size": 2, "hidden_size": 1408}],
    "HunyuanDiT2DModel": [{"in_channels": 4, "patch_size": 2, "hidden_size": 1408}],
    "LatteTransformer3DModel": [{"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 64, "num_layers": 4, "attention_head_dim": 72,
                                 "cross_attention_dim": 1152, "caption_channels": v, "norm_type": "ada_norm_single", "activation_fn": "gelu-approximate",
                                 "num_embeds_ada_norm": 1000} for v in (4096, None)],
    "LuminaNextDiT2DModel": [{"num_kv_heads": 8}],
    "OmniGenTransformer2DModel": [{"rope_scaling": {"long_factor": 48 * [1.0], "short_factor": 48 * [1.0], "type": "su"}}],
    "PriorTransformer": [{}, {"embedding_proj_norm_type": "layer", "norm_in_type": "layer", "encoder_hid_proj_type": None, "added_emb_type": None,
                              "embedding_proj_dim": 1024, "time_embed_dim": 4096, "clip_embed_dim": 1024}],
    "RFD4ProteinaAutoencoder": [{"atom37_mask": [[True] * 37] * 147, "allowed_residue_types": [[True] * 147] * 7}],
    "StableAudioProjectionModel": [{"text_encoder_dim": 768, "conditioning_dim": 768, "min_value": 0, "max_value": 512}],
    "Transformer2DModel": [{"in_channels": 320, "cross_attention_dim": 768, "num_layers": 4}, VECTORS,
                           {"in_channels": 4, "patch_size": 2, "sample_size": 64, "norm_type": "ada_norm_single", "caption_channels": 4096,
                            "num_embeds_ada_norm": 1000, "attention_head_dim": 72, "cross_attention_dim": 1152, "out_channels": 8},
                           {"in_channels": 4, "patch_size": 2, "sample_size": 64, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000}],
    "TransformerTemporalModel": [{"in_channels": 320, "num_layers": 4}],
    "UNet2DConditionModel": [{}, SDXL_UNET, {**SDXL_UNET, "time_cond_proj_dim": 256}, IF,
                             {"attention_type": "gated"}, {"addition_embed_type": "image", "encoder_hid_dim": 1280, "encoder_hid_dim_type": "image_proj",
                                                           "cross_attention_dim": 768},
                             {"addition_embed_type": "text_image", "encoder_hid_dim": 1024, "encoder_hid_dim_type": "text_image_proj", "cross_attention_dim": 768},
                             {"addition_embed_type": "image_hint"}, {"num_class_embeds": 1000}, {"class_embed_type": "timestep"},
                             {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
                             {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 512},
                             {"time_embedding_type": "fourier", "time_embedding_dim": 256},
                             {"down_block_types": 3 * ["KCrossAttnDownBlock2D"] + ["KDownBlock2D"], "mid_block_type": None, "attention_head_dim": 64,
                              "up_block_types": ["KUpBlock2D"] + 3 * ["KCrossAttnUpBlock2D"], "block_out_channels": [384, 384, 768, 768],
                              "resnet_time_scale_shift": "scale_shift", "time_embedding_type": "fourier", "act_fn": "gelu", "conv_in_kernel": 1,
                              "conv_out_kernel": 1, "norm_num_groups": None}],
    "UNet2DModel": [{}, {"class_embed_type": "timestep"}, {"num_class_embeds": 10}, {"time_embedding_type": "fourier"},
                    {"down_block_types": ["DownBlock2D", "AttnDownBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"],
                     "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]},
                    {"attn_norm_num_groups": 32}],
    "UNet1DModel": [{}, {"down_block_types": 4 * ["DownResnetBlock1D"], "up_block_types": 3 * ["UpResnetBlock1D"], "mid_block_type": "MidResTemporalBlock1D",
                         "out_block_type": "OutConv1DBlock", "block_out_channels": [32, 64, 128, 256], "time_embedding_type": "positional",
                         "use_timestep_embedding": True, "act_fn": "mish", "in_channels": 14, "out_channels": 14},
                    {"down_block_types": 4 * ["DownResnetBlock1D"], "up_block_types": [], "mid_block_type": "ValueFunctionMidBlock1D",
                     "out_block_type": "ValueFunction", "block_out_channels": [32, 64, 128, 256], "time_embedding_type": "positional",
                     "use_timestep_embedding": True, "act_fn": "mish", "in_channels": 14, "out_channels": 14}],
    "UNetMotionModel": [{}, {**{k: SDXL[k] for k in ("block_out_channels", "cross_attention_dim", "use_linear_projection", "addition_embed_type",
                                                     "addition_time_embed_dim", "projection_class_embeddings_input_dim", "transformer_layers_per_block")},
                             "num_attention_heads": [5, 10, 20], "time_cond_proj_dim": 256,
                             "down_block_types": ["DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"],
                             "up_block_types": ["CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"]}],
    "UniDiffuserModel": [{"sample_size": 64, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64,
                          "block_type": v} for v in ("unidiffuser", "uvit")],
    "UniDiffuserTextDecoder": [{"prefix_length": 77, "prefix_inner_dim": 768, "prefix_hidden_dim": v} for v in (64, None)],
    "WanTransformer3DModel": [{}, {"image_dim": 1280, "added_kv_proj_dim": 5120, "pos_embed_seq_len": 514}],
    "ZImageControlNetModel": [{"control_layers_places": [0, 2, 4], "control_refiner_layers_places": [0, 1], "control_in_dim": 16,
                               "add_control_noise_refiner": v} for v in (None, "control_layers", "control_noise_refiner")],
}

# What other values bring other modules is tried where the class has the argument; what does not build is passed over.
VALUES = {
    "image_dim": [1280], "added_kv_proj_dim": [1280], "guidance_embeds": [True], "caption_channels": [4096], "text_embed_dim_t5": [2048],
    "qk_norm": [None, "layer_norm", "rms_norm", "rms_norm_across_heads", "layer_norm_across_heads"], "time_cond_proj_dim": [256],
    "ofs_embed_dim": [512], "dual_attention_layers": [[0, 1, 2]], "image_embed_dim": [1152], "image_proj_dim": [1152],
    "norm_type": ["ada_norm_single", "ada_norm_zero"], "num_dual_layers": [0], "addition_embed_type": ["text"],
    "addition_embed_type_num_heads": [64], "class_dropout_prob": [0.1], "use_additional_conditions": [True],
    "ffn_dim": [None], "num_class_embeds": [10], "pooled_projection_dim": [None, 768], "extra_pos_embed_type": [None, "learnable"],
}


# An embedding or a Linear, by a setting that no tensor tells of: not in the
# table, so that it is kept and listed.
EITHER = {("UNet2DConditionModel", "class_embedding.weight")}


def model_classes():
    """{name: class} of what config.json's _class_name may name and can be built without other models."""
    out = {}
    for name in sorted(dir(diffusers)):
        try:
            cls = getattr(diffusers, name)
        except Exception:
            continue  # needs a package that is not installed
        if inspect.isclass(cls) and issubclass(cls, ModelMixin) and cls is not ModelMixin and cls.__name__ == name and "Multi" not in name:
            out[name] = cls
    return out


def variants(name, cls, few=False):
    """Arguments to build the class with, the plainest first."""
    bases = SETTINGS.get(name, [{}])
    yield from bases
    if few:
        return
    params = inspect.signature(cls.__init__).parameters
    for base in bases:
        for p in params.values():
            value = base.get(p.name, p.default)
            if isinstance(value, bool):
                yield {**base, p.name: not value}
            for other in VALUES.get(p.name, ()):
                if other != value:
                    yield {**base, p.name: other}


def build(cls, kwargs):
    with torch.device("meta"), torch.no_grad():
        return cls(**kwargs)


def norm(name):
    return ".".join("#" if p.isdigit() else p for p in name.split("."))


def tensors(model):
    """{path: "L" for the weight of an nn.Linear, "E" an nn.Embedding, "P" any other .weight}, and the paths of the matrices."""
    kinds, matrices = {}, []
    for name, t in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if leaf != "weight":
            continue
        module = model.get_submodule(path)
        kinds[path] = "L" if isinstance(module, torch.nn.Linear) else "E" if isinstance(module, torch.nn.Embedding) else "P"
        if t.dim() == 2:
            matrices.append(path)
    return kinds, matrices


def replaced(model, skip=None):
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip)
    q = BnB4BitDiffusersQuantizer(config)
    q._process_model_before_weight_loading(model, {"": "cpu"}, list(model._keep_in_fp32_modules or []))
    return {n for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def distinct_models(name, cls, few=False):
    """(arguments, model) of the variants that build and whose parameters no other has."""
    seen, errors = set(), []
    for kwargs in variants(name, cls, few):
        try:
            model = build(cls, kwargs)
        except Exception as e:
            errors.append(f"{kwargs}: {type(e).__name__}: {str(e)[:150]}")
            continue
        kinds, _ = tensors(model)
        signature = frozenset((norm(p), k) for p, k in kinds.items())
        if signature not in seen:
            seen.add(signature)
            yield kwargs, model
    if not seen:
        print(name, "cannot be built:", errors[0], file=sys.stderr)


def rows(kinds):
    """One line for each kind and parent. Numbers become "#" where all modules of the pattern are of one kind."""
    groups = collections.defaultdict(list)
    for path in kinds:
        groups[norm(path)].append(path)
    out = {}
    for pattern, paths in groups.items():
        parts = pattern.split(".")
        holes = [i for i, p in enumerate(parts) if p == "#"]
        for mask in [(), *((h,) for h in reversed(holes)), tuple(holes)]:
            fine = collections.defaultdict(set)
            for path in paths:
                literal = path.split(".")
                fine[".".join(literal[i] if i in mask else p for i, p in enumerate(parts))] |= kinds[path]
            if all(len(k) == 1 for k in fine.values()) or len(mask) == len(holes):
                break
        for p, k in fine.items():
            k -= {"P"}  # where another variant has a Linear, the shape of the tensor tells
            if k and not {"E", "L"} <= k:  # see EITHER
                out[p] = min(k, key="KEL".index)
    lines = collections.defaultdict(list)
    for path, kind in out.items():
        parent, _, leaf = path.rpartition(".")
        lines[parent or ".", kind].append(leaf)
    return [f" -{kind} {parent}: {' '.join(sorted(leaves))}" for (parent, kind), leaves in sorted(lines.items())]


def write(path):
    found = {}
    for name, cls in model_classes().items():
        kinds = collections.defaultdict(set)
        for _, model in distinct_models(name, cls):
            mine, _ = tensors(model)
            quantized = replaced(model)
            for p, k in mine.items():
                kinds[p].add("K" if k == "L" and p not in quantized else k)
        lines = rows(kinds)
        if not any(line.startswith((" -L", " -K")) for line in lines):
            continue  # convolutions alone
        head = [f"type {name} d"]
        if cls._keep_in_fp32_modules:
            head.append("strict " + " ".join(sorted(cls._keep_in_fp32_modules)))
        found[name] = "\n".join([*head, f"class {name} base", *lines])
    with open(path, "w") as f:
        f.write(f"# Generated by gen/components.py from diffusers {diffusers.__version__}; do not edit.\n\n")
        f.write("\n".join(found[n] for n in sorted(found)) + "\n")
    print(f"diffusers {diffusers.__version__}: {len(found)} classes", file=sys.stderr)


def check_model(arch, cls, kwargs, model):
    _, matrices = tensors(model)
    names = [p + ".weight" for p in matrices]
    config = {"_class_name": cls.__name__, "_diffusers_version": diffusers.__version__}
    got = arch.ask(config, names, ["diffusers"], True)
    if got.get("error"):
        return [("error", got["error"])]
    problems = []
    want = {p + ".weight" for p in replaced(model)}
    want = {n for n in want if (cls.__name__, n) not in EITHER}
    if want != set(got["quantized"]):
        problems.append(("set", sorted(want ^ set(got["quantized"]))[:20]))
    if got["bad"] or replaced(build(cls, kwargs), got["list"]) != {n[: -len(".weight")] for n in want}:
        problems.append(("list", got["list"]))
    # Half of them kept.
    keep = sorted(n for n in want if sum(map(ord, norm(n))) % 2)
    half = arch.ask(config, names, ["diffusers"], True, keep)
    expect = want - set(keep)
    if not half["bad"] and replaced(build(cls, kwargs), half["list"]) != {n[: -len(".weight")] for n in expect}:
        problems.append(("half", half["list"]))
    return problems


def check(binary, few, only):
    arch = Arch(binary)
    types = failed = total = 0
    for name, cls in model_classes().items():
        if name not in only if only else few and zlib.crc32(name.encode()) % 3:
            continue
        types += 1
        for kwargs, model in distinct_models(name, cls, few):
            if not any(isinstance(m, torch.nn.Linear) for m in model.modules()):
                continue
            total += 1
            for what, detail in check_model(arch, cls, kwargs, model):
                failed += 1
                print("DIFFERS", name, json.dumps(kwargs)[:200], what, json.dumps(detail)[:600], flush=True)
    print(f"diffusers {diffusers.__version__}: {types} types, {total} variants, {failed} differences", flush=True)
    sys.exit(1 if failed else 0)


def main():
    torch.nn.Linear.reset_parameters = lambda self: None
    if sys.argv[1:2] == ["--out"]:
        write(sys.argv[2])
    elif sys.argv[1:2] == ["--check"]:
        few = sys.argv[3:4] == ["--few"]
        check(sys.argv[2], few, sys.argv[4 if few else 3:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
