"""What transformers assumes where a config.json is silent.

Writes internal/modelshape/defaults.json: for each model type that modelshape builds
(and their nested types), the integer and boolean defaults of its config class. A value
that the class derives from another one (num_key_value_heads from num_attention_heads,
say) is left out: modelshape derives it too.

    python plan_defaults.py OUT.json TYPE...      (transformers 5.23.0)
"""

import json
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import transformers
from transformers import CONFIG_MAPPING

transformers.logging.set_verbosity_error()

NOISE = ("_token_id", "_token_index", "use_cache", "output_", "return_dict", "is_encoder_decoder", "pruned",
         "torchscript", "chunk_size", "max_length", "forced_", "summary_", "scale_", "router_aux", "pretraining_tp",
         "cross_attention_hidden_size", "suppress", "num_labels", "add_final", "gradient_checkpointing")


def values(cfg):
    """Integers and booleans; of a composite the nested configs it would make."""
    out = {}
    for k, v in (cfg if isinstance(cfg, dict) else cfg.to_dict()).items():
        if isinstance(v, (bool, int)) and not any(n in k for n in NOISE):
            out[k] = v
        elif isinstance(v, dict) and "model_type" in v and k in ("text_config", "vision_config"):
            out[k] = dict(values(v), model_type=v["model_type"])
    return out


def derived(cls, base):
    keys = set()
    for k, f in (("num_attention_heads", 2), ("hidden_size", 2), ("d_model", 2), ("n_head", 2), ("num_heads", 2), ("num_hidden_layers", 3), ("num_layers", 3)):
        if k not in base or not isinstance(base[k], int):
            continue
        try:
            other = values(cls(**{k: base[k] * f}))
        except Exception:
            continue
        keys |= {x for x in base if x != k and other.get(x) != base[x]}
    return keys


def main():
    out = {}
    for t in sorted(set(sys.argv[2:])):
        cls = CONFIG_MAPPING[t]
        base = values(cls())
        drop = derived(cls, base)
        out[t] = {k: v for k, v in sorted(base.items()) if k not in drop}
    with open(sys.argv[1], "w") as f:
        f.write("{\n")
        f.write(",\n".join(f" {json.dumps(t)}: {json.dumps(v)}" for t, v in out.items()))
        f.write("\n}\n")


main()
