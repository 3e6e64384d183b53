"""Ask the installed transformers what each architecture's tensors are.

Runs under transformers 5.x and 4.57; prints one JSON object a model type to
stdout. Every class of a model type is built on the meta device from its
config class, in several variants of the config; transformers' own quantizer
then replaces modules (replace_with_bnb_linear with a null skip list), and its
own save and load code maps parameter names to checkpoint names and back.

Usage: probe.py [--names FILE] TYPE... | - | --list
  -        read model types from stdin, one a line
  --list   print the model types and stop
  --names  JSON {type: {class: [checkpoint names]}} to be mapped as well: what
           the other version writes.
"""

import copy
import importlib
import json
import os
import pkgutil
import re
import resource
import signal
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
warnings.simplefilter("ignore")

import configs  # noqa: E402
import torch  # noqa: E402
import torch.nn as nn  # noqa: E402

torch.set_num_threads(1)

import transformers  # noqa: E402
from transformers import BitsAndBytesConfig, PreTrainedModel  # noqa: E402
from transformers.models.auto import configuration_auto, modeling_auto  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION  # noqa: E402
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer  # noqa: E402

V5 = int(transformers.__version__.split(".")[0]) >= 5
SIDECARS = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"]
SECONDS_PER_BUILD = 60  # of processor time, as all limits: what a busy machine leaves changes no answer
SECONDS_PER_TYPE = 900

if V5:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        PrefixChange,
        WeightConverter,
        WeightRenaming,
        rename_source_key,
        revert_weight_conversion,
    )
    from transformers.initialization import no_init_weights
else:
    from transformers.modeling_utils import VLMS, no_init_weights


class Timeout(Exception):
    pass


def on_alarm(signum, frame):
    raise Timeout(f"longer than {SECONDS_PER_BUILD} s")


def limit_type():
    """Ends the process when the type that begins now takes too long."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + SECONDS_PER_TYPE, resource.RLIM_INFINITY))


def model_types():
    return sorted(configuration_auto.CONFIG_MAPPING_NAMES)


def auto_mappings():
    """All *_MAPPING_NAMES of modeling_auto: {mapping: {type: class or tuple}}."""
    return {k: v for k, v in vars(modeling_auto).items() if k.endswith("_MAPPING_NAMES") and hasattr(v, "items")}


def package_of(config_class):
    return config_class.__module__.rsplit(".", 1)[0]


def modeling_modules(package):
    pkg = importlib.import_module(package)
    for info in pkgutil.iter_modules(pkg.__path__):
        if info.name.startswith("modeling_") and not info.name.startswith(("modeling_tf_", "modeling_flax_")):
            yield importlib.import_module(f"{package}.{info.name}")


def classes_of(model_type, config_class):
    """Public PreTrainedModel classes of the type, and why modules failed."""
    found, errors = {}, {}
    wanted = set()
    for key, mapping in auto_mappings().items():
        if "CONFIG" in key:
            continue
        names = mapping.get(model_type)
        if names is not None:
            wanted.update([names] if isinstance(names, str) else names)
    try:
        modules = list(modeling_modules(package_of(config_class)))
    except Exception as e:
        return {}, {"import": f"{type(e).__name__}: {e}"}
    for module in modules:
        public = set(getattr(module, "__all__", []))
        for name, obj in vars(module).items():
            if not isinstance(obj, type) or not issubclass(obj, PreTrainedModel) or obj.__module__ != module.__name__:
                continue
            if name.endswith("PreTrainedModel"):
                continue
            own = getattr(obj, "config_class", None) is config_class
            if name in wanted or (own and name in public):
                found[name] = obj
    for name in wanted - set(found):
        obj = getattr(transformers, name, None)
        if isinstance(obj, type) and issubclass(obj, PreTrainedModel):
            found[name] = obj
        elif not name.endswith("Config"):
            errors[name] = "listed in an auto mapping, not importable as a PreTrainedModel"
    return found, errors


# Values of string- or number-valued settings that change which modules exist.
# Only settings that a config has are tried.
SETTINGS = {
    "q_lora_rank": [None, 64],
    "kv_lora_rank": [64],
    "o_lora_rank": [None, 64],
    "first_k_dense_replace": [0, 1],
    "moe_layer_freq": [1, 2],
    "mlp_only_layers": [[0]],
    "decoder_sparse_step": [2],
    "interleave_moe_layer_step": [1, 2],
    "num_shared_experts": [0, 1],
    "n_shared_experts": [None, 1],
    "shared_expert_intermediate_size": [0, 512],
    "shared_intermediate_size": [0, 512],
    "num_experts": [0, 4],
    "num_local_experts": [0, 1, 4],
    "word_embed_proj_dim": [96],
    "embedding_size": [96],
    "projection_dim": [96],
    "feed_forward_proj": ["relu", "gated-gelu"],
    "dense_act_fn": ["relu"],
    "hidden_act": ["relu", "swiglu"],
    "position_embedding_type": ["relative_key", "relative_key_query"],
    "mlp_type": ["default", "gated"],
    "num_nextn_predict_layers": [0, 1],
    "adapter_attn_dim": [16],
    "cross_attention_hidden_size": [96],
    "encoder_hidden_size": [96],
    "reduced_size": [32],
    "num_mem_blocks": [1, 2],
    "use_shared_attention_adapter": [True],
    "attention_type": ["original_full", "block_sparse"],
    "model_type_variant": [],
    "hidden_size_per_layer_input": [0, 64],
    "num_kv_shared_layers": [0, 2],
    "linear_head_dim": [],
    "pooler_act": [],
    "problem_type": [],
    "layer_types": [],
    "bottleneck_size": [None],
    "num_hidden_groups": [2],
    "inner_group_num": [2],
    "mamba_dt_rank": [],
    "d_embed": [96],
    "div_val": [2],
    "task_specific_params": [],
    "summary_type": ["first", "cls_index"],
    "stem_type": [],
    "conv_bias": [],
    "vocab_projection_dim": [],
    "mm_hidden_size": [96],
    "text_projection_dim": [96],
    "audio_projection_dim": [96],
    "conv_pos_kernel_size": [],
    "use_parallel_mlp": [],
    "alternative_formulation": [],
}
# Settings that only cost time.
SMALL = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 8, "moe_num_experts": 4, "num_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
}
LAYERS = 10
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
          "num_decoder_layers", "num_encoder_layers")
UNTOUCHED = {
    "use_cache", "output_hidden_states", "output_attentions", "return_dict", "torchscript", "do_sample",
    "early_stopping", "remove_invalid_values", "return_dict_in_generate", "output_scores", "is_composition",
    "tf_legacy_loss", "use_bfloat16", "gradient_checkpointing", "_from_model_config",
}


def tied_of(config):
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return bool(getattr(text, "tie_word_embeddings", False))


def auto(model_type, **kw):
    return configuration_auto.CONFIG_MAPPING[model_type](**kw)


# Config classes that have no usable default.
BUILDERS = {
    "encoder-decoder": lambda c: c.from_encoder_decoder_configs(auto("bert"), auto("bert", hidden_size=512, num_attention_heads=8, is_decoder=True, add_cross_attention=True)),
    "vision-encoder-decoder": lambda c: c.from_encoder_decoder_configs(auto("vit"), auto("gpt2", n_embd=512, n_head=8, add_cross_attention=True)),
    "speech-encoder-decoder": lambda c: c.from_encoder_decoder_configs(auto("wav2vec2"), auto("bert", hidden_size=512, num_attention_heads=8, is_decoder=True, add_cross_attention=True)),
    "vision-text-dual-encoder": lambda c: c.from_vision_text_configs(auto("clip_vision_model"), auto("bert")),
    "musicgen": lambda c: c(text_encoder=auto("t5").to_dict(), audio_encoder=auto("encodec").to_dict(), decoder={}),
    "musicgen_melody": lambda c: c(text_encoder=auto("t5").to_dict(), audio_encoder=auto("encodec").to_dict(), decoder={}),
    "nougat": lambda c: c.from_encoder_decoder_configs(auto("donut-swin"), auto("mbart", is_decoder=True, add_cross_attention=True)),
    "rag": lambda c: c.from_question_encoder_generator_configs(auto("dpr"), auto("bart")),
    "tapas": lambda c: c(num_aggregation_labels=4),
}


def config_variants(model_type, config_class):
    """Yield (name, make) pairs; make() returns a config."""
    fixed = configs.settings(model_type, V5)

    def with_values(**values):
        def make():
            if model_type in BUILDERS:
                c = BUILDERS[model_type](config_class)
                for k, v in values.items():
                    setattr(c, k, v)
                return c
            return config_class(**{**copy.deepcopy(fixed), **values})
        return make

    d = with_values()().to_dict()
    small = {k: v for k, v in SMALL.items() if isinstance(d.get(k), int) and not isinstance(d.get(k), bool)}
    # Enough layers for every repeating pattern of layer kinds.
    shallow = {k: LAYERS for k in DEPTHS if isinstance(d.get(k), int) and d[k] > LAYERS and k not in fixed}
    small = {k: v for k, v in small.items() if k not in fixed}

    plain = with_values()
    for values in ({**small, **shallow}, shallow, small, {}):
        try:
            with_values(**values)()
        except Exception:
            continue
        small, plain = values, with_values(**values)
        break
    yield "default", plain

    def tie():
        c = plain()
        flip = not tied_of(c)
        text = c.get_text_config(decoder=True) if hasattr(c, "get_text_config") else c
        for x in {id(c): c, id(text): text}.values():
            x.tie_word_embeddings = flip
        return c

    yield "tie", tie
    for i, values in enumerate(configs.VARIANTS.get(model_type, ())):
        yield f"variant {i}", with_values(**{**small, **values})
    for key in sorted(d):
        value = d[key]
        if key in UNTOUCHED or key == "tie_word_embeddings":
            continue
        if isinstance(value, bool):
            yield f"{key}={not value}", with_values(**{**small, key: not value})
        elif key in SETTINGS:
            for other in SETTINGS[key]:
                if other != value:
                    yield f"{key}={other}", with_values(**{**small, key: other})


def build(cls, config):
    try:
        return build_as_is(cls, config)
    except ValueError as e:
        if "scaled_dot_product_attention" not in str(e):
            raise
        config._attn_implementation = "eager"
        return build_as_is(cls, config)


def build_as_is(cls, config):
    signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_BUILD)
    try:
        if V5:
            from transformers.initialization import meta_device_safe_creation_ops, no_tie_weights

            with torch.device("meta"), no_init_weights(), no_tie_weights(), meta_device_safe_creation_ops():
                return cls(config)
        try:
            with torch.device("meta"), no_init_weights():
                model = cls(config)
        except Timeout:
            raise
        except Exception:
            from accelerate import init_empty_weights

            with no_init_weights(), init_empty_weights():
                model = cls(config)
        model.tie_weights()
        return model
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def kind_of(module, leaf, tensor):
    """One letter: what the tensor is to replace_with_bnb_linear."""
    if leaf == "weight":
        if isinstance(module, Conv1D):
            return "C"
        if type(module) is nn.Linear:
            return "L"
        if isinstance(module, nn.Linear):
            return "S"
        if isinstance(module, nn.Embedding):
            return "E"
    return "P"


def norm(name):
    return ".".join("#" if p.isdigit() else p for p in name.split("."))


def thin(rows):
    """Keep, per digit-normalized key, the first two, the last, and every
    entry whose value differs from the first's."""
    groups = {}
    for key in rows:
        groups.setdefault(norm(key), []).append(key)
    keep = {}
    for keys in groups.values():
        first = norm_value(rows[keys[0]])
        for i, k in enumerate(keys):
            if i < 2 or i == len(keys) - 1 or norm_value(rows[k]) != first:
                keep[k] = rows[k]
    return keep


def norm_value(v):
    return [norm(x) if isinstance(x, str) else x for x in v]


def mapping_v5(model, quantizer):
    conv = get_model_conversion_mapping(model, hf_quantizer=quantizer)
    return (
        [c for c in conv if isinstance(c, WeightRenaming)],
        [c for c in conv if isinstance(c, WeightConverter)],
    )


def load_name_v5(name, model, renamings, converters, state):
    """(parameter name or None, source pattern) as convert_and_load_state_dict_in_model finds it."""
    new, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
    if new not in state and name in state:
        new, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
    if new not in state:
        # one-to-many: the pattern's first target stands for all
        return None, pattern
    return new, pattern


def map_names_v5(model, quantizer, names):
    """{checkpoint name: [parameter, state]}; state: "" loads as is, "fused" consumed by a converter of the model,
    "sidecars" the weight loads but its packed companions do not follow it."""
    out = {}
    state = model.state_dict()
    serialized = set(quantizer.serialized_names["weight"])
    renamings, converters = mapping_v5(model, quantizer)
    for name in names:
        # The renaming objects keep state (GroupWeightRename), as in a real load.
        new, pattern = load_name_v5(name, model, renamings, converters, state)
        if new is None:
            if pattern is not None and pattern not in serialized:
                out[name] = ["", "fused"]
            continue
        status = ""
        if pattern is not None and pattern not in serialized:
            # One tensor may be split into several modules.
            targets = next(c.target_patterns for c in converters if pattern in c.source_patterns)
            more = [new.replace(targets[0], t) for t in targets[1:]]
            status = " ".join(["fused", *[m for m in more if m in state]])
        elif name.endswith(".weight") and new.endswith(".weight"):
            for side in SIDECARS:
                got, p = load_name_v5(name + side, model, renamings, converters, state)
                if got != new or p != "weight" + side:
                    status = "sidecars"
        elif new.endswith(".weight") or name.endswith(".weight"):
            status = "sidecars"
        out[name] = [new, status]
    return out


def saved_names_v5(model):
    """What save_pretrained would write, plainly and after a load that saw the prefixes the hub's checkpoints have;
    names only matter, the tensors are meta."""
    state = model.state_dict()
    for key in model._keys_to_ignore_on_save or []:
        state.pop(key, None)
    try:
        names = list(revert_weight_conversion(model, dict(state)))
        full = get_model_conversion_mapping(model, add_legacy=False)
        if not any(isinstance(c, PrefixChange) for c in full):
            return names, [], None
        model._weight_conversions = full
        more = list(revert_weight_conversion(model, dict(state)))
        del model._weight_conversions
        return names, more, None
    except Exception as e:
        return list(state), [], f"{type(e).__name__}: {e}"


def key_mapping_v4(cls):
    if any(v in c.__name__.lower() for c in cls.__mro__[:-1] for v in VLMS):
        return cls._checkpoint_conversion_mapping
    return None


def saved_names_v4(model):
    state = model.state_dict()
    for key in model._keys_to_ignore_on_save or []:
        state.pop(key, None)
    mapping = key_mapping_v4(type(model))
    names = list(state)
    if mapping:
        # modeling_utils.PreTrainedModel.save_pretrained
        reverse = {v: k for k, v in mapping.items()}
        out = []
        for key in names:
            for pattern, replacement in reverse.items():
                replacement = replacement.lstrip("^")
                replacement = re.sub(r"\(.*\)", "", replacement)
                key, n = re.subn(pattern, replacement, key)
                if n > 0:
                    break
            out.append(key)
        names = out
    return [model._fix_state_dict_key_on_save(n)[0] for n in names], [], None


def map_names_v4(model, names):
    out = {}
    state = model.state_dict()
    mapping = key_mapping_v4(type(model))
    prefix = model.base_model_prefix
    for name in names:
        for task, base in ((False, False), (True, False), (False, True)):
            if (task or base) and not prefix:
                continue
            try:
                got = model._get_key_renaming_mapping([name], mapping, base, task)
            except ValueError:
                continue
            new = got.get(name)
            if new in state:
                status = ""
                if name.endswith(".weight") or new.endswith(".weight"):
                    for side in SIDECARS:
                        g = model._get_key_renaming_mapping([name + side], mapping, base, task).get(name + side)
                        if g != new + side:
                            status = "sidecars"
                out[name] = [new, status]
                break
    return out


def submodels(model, known):
    """[path, config key, type, class] of every nested model that has a config of its own."""
    out = []
    keys = {}
    for key, value in vars(model.config).items():
        if isinstance(value, transformers.PretrainedConfig):
            keys.setdefault(id(value), key)
    for path, module in model.named_modules():
        if path == "" or not isinstance(module, PreTrainedModel):
            continue
        if any(path.startswith(p + ".") for p, *_ in out):
            continue
        cfg = module.config
        key = keys.get(id(cfg))
        if key is None:
            # Encoder-decoders copy the config; match by type among the sub-configs.
            same = [k for k, v in vars(model.config).items()
                    if isinstance(v, transformers.PretrainedConfig) and v.model_type == cfg.model_type]
            key = same[0] if len(same) == 1 and cfg.model_type != model.config.model_type else None
        if key is None or cfg.model_type not in known:
            continue
        out.append([path, key, cfg.model_type, type(module).__name__])
    return out


def role_paths(model):
    """Paths of the text model and of the towers, by the config each nested model has."""
    cfg = model.config
    text = cfg.get_text_config(decoder=True) if hasattr(cfg, "get_text_config") else cfg
    texts, towers = [], []
    for path, module in model.named_modules():
        if path == "" or not isinstance(module, PreTrainedModel):
            continue
        c = module.config
        if c is text and c is not cfg:
            texts.append(path)
        elif c is not cfg:
            for key, value in vars(cfg).items():
                if value is c and re.search(r"vision|audio|speech|image|visual|encoder_config|tower", key):
                    towers.append(path)
    return texts, towers


class Same(Exception):
    """The variant has the parameters of one already seen."""


def probe_variant(cls, config, names, known, seen):
    model = build(cls, config)
    out = {}
    params = dict(model.named_parameters(remove_duplicate=False))
    for n, b in model.named_buffers():
        params.setdefault(n, b)
    state = model.state_dict()
    rows = {}
    for name in state:
        t = params.get(name)
        if t is None:
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        rows[name] = [kind_of(module, leaf, t), t.dim(), type(module).__name__]
    signature = json.dumps(sorted({(norm(k), *v) for k, v in rows.items()}))
    if seen is not None:
        if signature in seen:
            raise Same
        seen.add(signature)
    saved, also, why = saved_names_v5(model) if V5 else saved_names_v4(model)
    if why:
        out["revert"] = why
    emb = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    out["output_embeddings"] = [n for n, m in model.named_modules() if emb is not None and m is emb]
    out["prefix"] = model.base_model_prefix if hasattr(model, model.base_model_prefix or "-") else ""
    out["base_model_prefix"] = model.base_model_prefix
    out["subs"] = submodels(model, known)
    out["texts"], out["towers"] = role_paths(model)
    out["generates"] = bool(model.can_generate()) if hasattr(model, "can_generate") else False
    out["fp32"] = sorted(model._keep_in_fp32_modules or [])
    out["ignore"] = sorted(model._keys_to_ignore_on_load_unexpected or [])

    def quantizer(pre):
        return Bnb4BitHfQuantizer(BitsAndBytesConfig(load_in_4bit=True), pre_quantized=pre)

    def run(q, m):
        kw = {} if V5 else {"keep_in_fp32_modules": m._keep_in_fp32_modules, "config": m.config}
        q.preprocess_model(model=m, dtype=torch.bfloat16, device_map={"": "cpu"}, **kw)
        import bitsandbytes as bnb

        return {n for n, x in m.named_modules() if isinstance(x, bnb.nn.Linear4bit)}

    # Some modules are swapped only for checkpoints that are already quantized
    # (Llama-4's experts): then the two sets have to be told apart.
    patched = any(type(m).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION for m in model.modules())
    pre_model = build(cls, copy.deepcopy(config)) if patched else model
    qp = quantizer(True)
    quant = run(qp, pre_model)
    out["null"] = sorted(set(qp.modules_to_not_convert))
    if patched:
        quant = run(quantizer(False), model)
        out["patched"] = sorted({norm(n) for n in pre_model.state_dict() if n not in state})
    wanted = list(dict.fromkeys(saved + also + list(state) + list(names)))
    if patched:
        wanted += [n for n in pre_model.state_dict() if n not in state]
    mapped = map_names_v5(pre_model, qp, wanted) if V5 else map_names_v4(pre_model, wanted)
    for name, row in rows.items():
        row.append(1 if name.removesuffix(".weight") in quant and name.endswith(".weight") else 0)
    del model, pre_model
    out["saved"] = sorted(thin({n: [0] for n in saved}))
    out["also"] = sorted(thin({n: [0] for n in also}))
    out["rows"] = thin(rows)
    out["map"] = thin(mapped)
    return out


def probe_type(model_type, names):
    mapping = configuration_auto.CONFIG_MAPPING_NAMES
    known = set(mapping)
    result = {"type": model_type, "version": transformers.__version__, "classes": {}, "errors": {}}
    try:
        config_class = configuration_auto.CONFIG_MAPPING[model_type]
        result["model_type"] = config_class.model_type
        found, errors = classes_of(model_type, config_class)
        result["errors"].update(errors)
        result["package"] = package_of(config_class).rsplit(".", 1)[-1]
        base = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
        result["base"] = base if isinstance(base, str) or base is None else list(base)
        causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
        result["causal"] = causal
        variants = list(config_variants(model_type, config_class))
        result["tied"] = tied_of(variants[0][1]())
        result["sub_configs"] = sorted(
            k for k, v in vars(variants[0][1]()).items() if isinstance(v, transformers.PretrainedConfig))
    except Exception as e:
        result["errors"]["config"] = f"{type(e).__name__}: {e}"[:300]
        return result
    if not found and not result["errors"]:
        result["errors"]["classes"] = "no PreTrainedModel class"
    for cls_name, cls in sorted(found.items()):
        seen = set()
        for vname, make in variants:
            try:
                config = make()
                got = probe_variant(cls, config, names.get(cls_name, []), known, None if vname == "tie" else seen)
            except Same:
                continue
            except Exception as e:
                if vname in ("default", "tie"):
                    result["errors"][f"{cls_name}/{vname}"] = f"{type(e).__name__}: {str(e)[:200]}"
                if vname == "default":
                    break
                continue
            result["classes"].setdefault(cls_name, {})[vname] = got
    return result


def main():
    signal.signal(signal.SIGPROF, on_alarm)
    # Some modules print while they are imported.
    out, sys.stdout = sys.stdout, sys.stderr
    # Initialization is most of the cost of a Linear on the meta device.
    nn.Linear.reset_parameters = lambda self: None
    args = sys.argv[1:]
    names = {}
    if args[:1] == ["--names"]:
        with open(args[1]) as f:
            names = json.load(f)
        args = args[2:]
    if args == ["--list"]:
        print("\n".join(model_types()), file=out)
        return
    if args == ["-"]:
        args = (line.strip() for line in sys.stdin)
    for t in args:
        limit_type()
        print(json.dumps(probe_type(t, names.get(t, {}))), file=out, flush=True)


if __name__ == "__main__":
    main()
