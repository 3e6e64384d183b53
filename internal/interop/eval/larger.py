#!/usr/bin/env python3
"""Trains a Llama of 10 million parameters as testdata/llama/train.py trains the small one, on the same text.

    python larger.py --out DIR --minutes M [--threads T]

For the evaluation of quantization methods: the rows of its Linears are 384 and 1024 elements, 6 and 16 blocks of 64. Few
minutes have few steps, so that these take a batch of 4.
"""

import importlib.util
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    spec = importlib.util.spec_from_file_location("train", os.path.join(HERE, "../../../testdata/llama/train.py"))
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    train.BATCH = 4
    train.CONFIG |= {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 12, "num_key_value_heads": 6, "num_hidden_layers": 6}
    train.main()


if __name__ == "__main__":
    main()
