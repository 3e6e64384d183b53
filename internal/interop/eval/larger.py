#!/usr/bin/env python3
"""Trains a Llama of 4 million parameters as testdata/llama/train.py trains the small one, on the same text.

    python larger.py --out DIR [--minutes M] [--threads T]

For the evaluation of quantization methods: the rows of its Linears are 256 and 704 elements, 4 and 11 blocks of 64.
"""

import importlib.util
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    spec = importlib.util.spec_from_file_location("train", os.path.join(HERE, "../../../testdata/llama/train.py"))
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    train.VOCAB = 2039
    train.CONFIG |= {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": train.VOCAB}
    train.main()


if __name__ == "__main__":
    main()
