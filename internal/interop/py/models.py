"""Makes small source checkpoints with random weights, as save_pretrained of transformers 4.57 writes them (the hub's layout).

A case: {"kind": a key of KINDS; "out": directory; "dtype": of the weights; "from": for kind "copy", the checkpoint to take}.
Run it in the environment t4: what 4.57 writes both versions read; the other way round is not so.
"""

import os
import shutil

import common
import torch

tf = common.transformers
VOCAB = 211


def llama_like(config, **more):
    """hidden 100 and rows of 211 and 20: nearly every tensor ends in a short block, and no row is whole blocks."""
    return config(
        vocab_size=VOCAB,
        hidden_size=100,
        intermediate_size=211,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=128,
        **{"tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, **more},
    )


def bert_like(config, **more):
    return config(
        vocab_size=VOCAB,
        hidden_size=60,
        intermediate_size=111,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        **{"pad_token_id": 0, **more},
    )


KINDS = {
    "llama": lambda: (tf.LlamaForCausalLM, llama_like(tf.LlamaConfig)),
    "llama-tied": lambda: (tf.LlamaForCausalLM, llama_like(tf.LlamaConfig, tie_word_embeddings=True)),
    "mistral": lambda: (tf.MistralForCausalLM, llama_like(tf.MistralConfig, sliding_window=None)),
    "qwen2-tied": lambda: (tf.Qwen2ForCausalLM, llama_like(tf.Qwen2Config, tie_word_embeddings=True)),
    "qwen3": lambda: (tf.Qwen3ForCausalLM, llama_like(tf.Qwen3Config, head_dim=24)),
    "gemma": lambda: (tf.GemmaForCausalLM, llama_like(tf.GemmaConfig, head_dim=20, tie_word_embeddings=True)),
    "gemma2": lambda: (tf.Gemma2ForCausalLM, llama_like(tf.Gemma2Config, head_dim=20, tie_word_embeddings=True)),
    "gemma3": lambda: (tf.Gemma3ForCausalLM, llama_like(tf.Gemma3TextConfig, head_dim=20, tie_word_embeddings=True)),
    "phi": lambda: (tf.PhiForCausalLM, llama_like(tf.PhiConfig)),
    "phi3": lambda: (tf.Phi3ForCausalLM, llama_like(tf.Phi3Config)),
    "opt": lambda: (
        tf.OPTForCausalLM,
        tf.OPTConfig(
            vocab_size=VOCAB, hidden_size=60, ffn_dim=111, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
            word_embed_proj_dim=36, pad_token_id=0, bos_token_id=0, eos_token_id=1,
        ),
    ),
    "gpt-neox": lambda: (
        tf.GPTNeoXForCausalLM,
        tf.GPTNeoXConfig(vocab_size=VOCAB, hidden_size=60, intermediate_size=111, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=64, bos_token_id=0, eos_token_id=1),
    ),
    "bert": lambda: (tf.BertModel, bert_like(tf.BertConfig)),
    "bert-mlm": lambda: (tf.BertForMaskedLM, bert_like(tf.BertConfig)),
    "roberta-mlm": lambda: (tf.RobertaForMaskedLM, bert_like(tf.RobertaConfig, pad_token_id=1)),
    "distilbert": lambda: (
        tf.DistilBertModel,
        tf.DistilBertConfig(vocab_size=VOCAB, dim=60, hidden_dim=111, n_layers=2, n_heads=4, max_position_embeddings=64),
    ),
}


def upcast(source, out, dtype):
    """A checkpoint whose every weight is off the run dtype's grid by up to half a step, so that rounding it matters."""
    model = tf.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + (torch.rand(p.shape) - 0.5) * 2**-8)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(source, name), out)


def handle(case):
    torch.manual_seed(20260911)
    dtype = getattr(torch, case["dtype"])
    if case["kind"] == "copy":
        upcast(case["from"], case["out"], dtype)
        return {"error": ""}
    cls, config = KINDS[case["kind"]]()
    config.dtype = dtype
    model = cls(config).to(dtype)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases of ones and zeros would hide a mix-up
            p.add_(torch.randn(p.shape) * 0.02)
    model.save_pretrained(case["out"])
    return {"error": ""}


if __name__ == "__main__":
    common.serve(handle)
