"""Makes small random models and says what they make of tokens, in float32.

A case: {"family": a key of MODELS; "variant": "float32", "bfloat16", or "nf4" for a checkpoint that bitsandbytes has quantized;
"tokens": ids; "out": a directory for the checkpoint}. It gets logprobs.safetensors beside the model: the log-probabilities
[tokens, vocabulary] that transformers computes with eager attention, all in float32.
"""

import json
import os
import zlib

import common
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

BASE = dict(vocab_size=211, hidden_size=52, intermediate_size=75, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
EQUAL = dict(BASE, num_key_value_heads=4)
GPT2 = dict(vocab_size=211, n_embd=52, n_layer=3, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2)
OPT = dict(vocab_size=211, hidden_size=52, ffn_dim=75, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512, pad_token_id=0)
NEOX = dict(vocab_size=211, hidden_size=96, intermediate_size=75, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512)
MOE = dict(num_experts=7, num_experts_per_tok=3, moe_intermediate_size=29)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64, rope_theta=500000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=10000.0)
FACTORS = [1.0 + 0.3 * i for i in range(6)]
GEMMA = dict(BASE, head_dim=14, sliding_window=37, query_pre_attn_scalar=11)

MODELS = {
    "llama": ("llama", dict(BASE, head_dim=18)),
    "llama-bias": ("llama", dict(BASE, head_dim=18, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu")),
    "llama-llama3": ("llama", dict(BASE, head_dim=18, rope_parameters=LLAMA3)),
    "llama-linear": ("llama", dict(BASE, head_dim=18, rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=10000.0))),
    "llama-dynamic": ("llama", dict(BASE, head_dim=18, max_position_embeddings=128, rope_parameters=dict(rope_type="dynamic", factor=3.0, rope_theta=10000.0))),
    "llama-yarn": ("llama", dict(BASE, head_dim=18, rope_parameters=YARN)),
    "mistral": ("mistral", dict(BASE, head_dim=14, sliding_window=53)),
    "mistral-full": ("mistral", dict(BASE, head_dim=14, sliding_window=None)),
    "qwen2": ("qwen2", dict(BASE, hidden_size=56, use_sliding_window=True, sliding_window=41, max_window_layers=1)),
    "qwen3": ("qwen3", dict(BASE, head_dim=22)),
    "qwen3-yarn": ("qwen3", dict(BASE, head_dim=22, attention_bias=True, rope_parameters=dict(YARN, mscale=1.2, mscale_all_dim=0.7, truncate=False))),
    "gemma": ("gemma", dict(BASE, head_dim=14)),
    "gemma2": ("gemma2", dict(GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "gemma3_text": ("gemma3_text", dict(GEMMA, num_hidden_layers=7, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
    "phi": ("phi", dict(BASE, hidden_size=80, qk_layernorm=True)),
    "phi3": ("phi3", dict(BASE, hidden_size=48, sliding_window=47)),
    "phi3-longrope": ("phi3", dict(BASE, hidden_size=48, original_max_position_embeddings=128, rope_parameters=dict(
        rope_type="longrope", short_factor=FACTORS, long_factor=[2 * f for f in FACTORS], rope_theta=10000.0))),
    "phi3-partial": ("phi3", dict(BASE, hidden_size=80, original_max_position_embeddings=512, partial_rotary_factor=0.6, rope_parameters=dict(
        rope_type="longrope", short_factor=FACTORS, long_factor=[2 * f for f in FACTORS], rope_theta=10000.0))),
    "stablelm": ("stablelm", dict(BASE, hidden_size=96, use_qkv_bias=True)),
    "stablelm-parallel": ("stablelm", dict(BASE, hidden_size=96, use_parallel_residual=True, qk_layernorm=True)),
    "starcoder2": ("starcoder2", dict(BASE, hidden_size=56, sliding_window=43)),
    "olmo2": ("olmo2", dict(BASE, hidden_size=56)),
    "smollm3": ("smollm3", dict(BASE, hidden_size=56, num_hidden_layers=5, use_sliding_window=True, sliding_window=39)),
    "granite": ("granite", dict(BASE, hidden_size=56, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.6, attention_multiplier=0.2)),
    "cohere": ("cohere", dict(BASE, hidden_size=56, use_qk_norm=True, logit_scale=0.3, tie_word_embeddings=True)),
    "glm4": ("glm4", dict(BASE, head_dim=20, attention_bias=True)),
    "gpt2": ("gpt2", GPT2),
    "gpt2-scaled": ("gpt2", dict(GPT2, n_inner=37, scale_attn_by_inverse_layer_idx=True, activation_function="relu")),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox-serial": ("gpt_neox", dict(NEOX, use_parallel_residual=False, attention_bias=False)),
    "opt": ("opt", OPT),
    "opt-after": ("opt", dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=33)),
    "mixtral": ("mixtral", dict(BASE, head_dim=14, num_local_experts=5, num_experts_per_tok=2, sliding_window=61)),
    "qwen3_moe": ("qwen3_moe", dict(BASE, **MOE, head_dim=14, norm_topk_prob=True, mlp_only_layers=[1])),
    "qwen2_moe": ("qwen2_moe", dict(BASE, **MOE, hidden_size=56, shared_expert_intermediate_size=31, use_sliding_window=True, sliding_window=33, max_window_layers=2)),
    "olmoe": ("olmoe", dict(BASE, hidden_size=56, intermediate_size=29, num_experts=7, num_experts_per_tok=3, clip_qkv=1.5)),
    "glm4_moe": ("glm4_moe", dict(BASE, head_dim=20, moe_intermediate_size=29, n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2,
                                  routed_scaling_factor=1.7, use_qk_norm=True, attention_bias=True, num_mtp_layers=0)),
    "olmo": ("olmo", dict(BASE, hidden_size=56, clip_qkv=1.5)),
    "olmo3": ("olmo3", dict(BASE, hidden_size=56, num_hidden_layers=5, sliding_window=35, rope_parameters={
        "full_attention": dict(YARN), "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
    "exaone4": ("exaone4", dict(BASE, head_dim=14, num_hidden_layers=5, sliding_window=35)),
    "cohere2": ("cohere2", dict(BASE, hidden_size=56, num_hidden_layers=5, sliding_window=35, tie_word_embeddings=True)),
    "glm": ("glm", dict(BASE, head_dim=20)),
    "arcee": ("arcee", dict(BASE, head_dim=14, mlp_bias=True)),
    "nemotron": ("nemotron", dict(BASE, hidden_size=80)),
    "helium": ("helium", dict(BASE, hidden_size=56, head_dim=14)),
    "ernie4_5": ("ernie4_5", dict(BASE, head_dim=14, use_bias=True)),
    "seed_oss": ("seed_oss", dict(BASE, head_dim=14)),
    "gptj": ("gptj", dict(GPT2, rotary_dim=6, tie_word_embeddings=False)),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_bigcode-heads": ("gpt_bigcode", dict(GPT2, multi_query=False)),
    "gpt_neo": ("gpt_neo", dict(vocab_size=211, hidden_size=52, num_layers=3, num_heads=4, max_position_embeddings=512, window_size=39,
                                attention_types=[[["global", "local"], 1], [["local"], 1]])),
    "gpt_oss": ("gpt_oss", dict(BASE, head_dim=14, num_local_experts=5, num_experts_per_tok=2, sliding_window=45,
                                rope_parameters=dict(YARN, truncate=False, beta_fast=32.0, beta_slow=1.0))),
}


@torch.no_grad()
def make(name):
    """A model whose every parameter matters: matrices that keep the size of what they are given, norms and biases that are not trivial."""
    kind, values = MODELS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**values), attn_implementation="eager", dtype=torch.float32)
    for key, p in model.named_parameters():
        if p.dim() >= 2:
            p.normal_(0, 1.5 / p.shape[-1] ** 0.5)
        elif "norm" in key.lower() or "ln_" in key:
            p.add_(torch.randn_like(p) * 0.2)
        else:
            p.normal_(0, 0.3)
    return model.eval()


@torch.no_grad()
def handle(case):
    out, variant = case["out"], case["variant"]
    model = make(case["family"])
    if variant == "bfloat16":
        model.to(torch.bfloat16)
    model.save_pretrained(out)
    if variant == "nf4":
        quantized = common.quantize("causal", out, "bfloat16", "nf4", True)
        for f in os.listdir(out):
            os.remove(os.path.join(out, f))
        quantized.save_pretrained(out)
        path = os.path.join(out, "config.json")
        with open(path) as f:
            config = json.load(f)
        config["quantization_config"]["bnb_4bit_compute_dtype"] = "float32"
        with open(path, "w") as f:
            json.dump(config, f)
    model, keys = common.load("causal", out, dtype=torch.float32, attn_implementation="eager", **({"experts_implementation": "eager"} if "exp" in str(MODELS[case["family"]][1]) else {}))
    if any(keys.values()):
        raise RuntimeError(f"loading {out}: {keys}")
    torch.nn.Module.float(model)  # transformers keeps the dtypes of a quantized checkpoint's files whatever it is asked for
    logits = model(input_ids=torch.tensor([case["tokens"]])).logits[0]
    save_file({"logprobs": torch.log_softmax(logits.double(), -1).float()}, os.path.join(out, "logprobs.bin"))
    return {"error": ""}


if __name__ == "__main__":
    common.serve(handle)
