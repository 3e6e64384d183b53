"""What transformers assumes where a config.json is silent: the fields of configuration classes with their defaults.

Writes internal/forward/defaults.json. A field whose default is null has what the class derives from others, which package
forward derives too; "default_theta" is the class's base of rotary embeddings.

    python forward_defaults.py OUT.json TYPE...      (transformers 5.23.0)
"""

import dataclasses
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import CONFIG_MAPPING, PreTrainedConfig

BASE = {f.name for f in dataclasses.fields(PreTrainedConfig)} - {"tie_word_embeddings"}


def defaults(cls):
    out = {}
    for f in dataclasses.fields(cls):
        if f.name not in BASE and (f.default is None or isinstance(f.default, (bool, int, float, str))):
            out[f.name] = f.default
    theta = cls.default_theta if "default_theta" in dir(cls) else None
    if theta is not None:
        out["default_theta"] = theta
    return out


def main():
    rows = [f" {json.dumps(t)}: {json.dumps(defaults(CONFIG_MAPPING[t]))}" for t in sorted(set(sys.argv[2:]))]
    with open(sys.argv[1], "w") as f:
        f.write("{\n" + ",\n".join(rows) + "\n}\n")


main()
