#!/usr/bin/env python3
"""Writes the second moments of an activations file as an importance matrix, with the writer of llama.cpp's own scripts.

    pip install gguf==0.19.0; python imatrix.py MODEL ACTIVATIONS OUT.gguf

Names are those that gguf maps MODEL's weights to. Each sum counts 1024 rows, a power of two: the means that are read from the
file are to the bit those of the activations, and so must be the scales.
"""

import json
import sys

import gguf
import numpy as np
from safetensors import safe_open

ROWS = 1024


def main():
    model, activations, out = sys.argv[1:]
    with open(f"{model}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == config["model_type"])
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    w = gguf.GGUFWriter(out, "")
    w.kv_data[0].pop("general.architecture", None)  # an importance matrix has none
    w.add_type("imatrix")
    w.add_array("imatrix.datasets", ["activations"])
    w.add_uint32("imatrix.chunk_count", 2)
    w.add_uint32("imatrix.chunk_size", ROWS // 2)
    with safe_open(activations, "np") as f:
        for weight, entry in json.loads(f.metadata()["linears"]).items():
            name = names.get_name(weight, try_suffixes=(".weight",))
            w.add_tensor(name + ".in_sum2", f.get_tensor(entry + ".moments")[None] * np.float32(ROWS))
            w.add_tensor(name + ".counts", np.full((1, 1), ROWS, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
