"""Adapters made by PEFT on tiny models, and what PEFT makes of them.

A case is {"kind", "out": a directory, ...}:

  merge    {"names": of MERGES, [] for all}: writes OUT/NAME/base, adapter (adapter2, ...) and merged, and answers
           {"merges": [{name, adapters, safe, exact}]}. exact is false where sums of another order differ in the last bit: DoRA's
           norms.
  4bit     {"type", "double_quant", "dtype", "dora"}: writes OUT/source (plain), base (quantized by bitsandbytes), adapter,
           decoded.safetensors (dequantized by bitsandbytes, plus PEFT's delta, rounded) and merged.safetensors (codes and scales of
           what PEFT's merge makes: quantized again).
  combine  {}: writes OUT/a, b (adapters) and, for each of COMBINES, OUT/NAME: what add_weighted_adapter makes of them.
  init     {"source", "base", "adapter", "grams"}: an adapter for a quantized base; answers {"worst": |W-Q-sBA| over the least of its
           rank, the largest of all modules; "modules"; "difference": how far it moves the logits}. With "grams", a file of
           activations, norms are of the outputs: |X G^(1/2)|.
  olora    {"source", "adapter"}: answers {"worst": how far sBA is from PEFT's with init_lora_weights="olora", as a share of it; "modules"}.
"""

import json
from pathlib import Path

import common
import torch
import transformers as tf
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import VeloraConfig
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def llama(**kw):
    sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=160, max_position_embeddings=64, tie_word_embeddings=False)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**sizes, **kw}))


def gpt2():
    return tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=96, n_positions=32))


def bert():
    return tf.BertForSequenceClassification(tf.BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                                                          intermediate_size=64, vocab_size=96, max_position_embeddings=32, num_labels=3))


def bert_words():
    return tf.BertForMaskedLM(tf.BertConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=96, max_position_embeddings=128))


def distilbert():
    return tf.DistilBertForMaskedLM(tf.DistilBertConfig(dim=48, n_layers=1, n_heads=4, hidden_dim=64, vocab_size=96, max_position_embeddings=32))


def vit():
    return tf.ViTForImageClassification(tf.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8, num_labels=3))


def t5():
    return tf.T5ForConditionalGeneration(tf.T5Config(d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4, vocab_size=96))


def mixtral():
    return tf.MixtralForCausalLM(tf.MixtralConfig(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                                  num_key_value_heads=2, num_local_experts=4, vocab_size=96))


def qwen_moe():
    return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(hidden_size=48, intermediate_size=40, moe_intermediate_size=24, num_hidden_layers=2,
                                                    num_attention_heads=4, num_key_value_heads=2, head_dim=12, num_experts=4,
                                                    num_experts_per_tok=2, vocab_size=96))


def gpt_oss():
    return tf.GptOssForCausalLM(tf.GptOssConfig(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                                num_key_value_heads=2, head_dim=12, num_local_experts=4, vocab_size=96))


def llama4():
    return tf.Llama4ForCausalLM(tf.Llama4TextConfig(hidden_size=48, intermediate_size=40, intermediate_size_mlp=40, num_hidden_layers=2, num_attention_heads=4,
                                                    num_key_value_heads=2, head_dim=12, num_local_experts=4, vocab_size=96, attention_chunk_size=32))


def granite_moe():
    return tf.GraniteMoeForCausalLM(tf.GraniteMoeConfig(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                                        num_local_experts=4, num_experts_per_tok=2, vocab_size=96))


def jetmoe():
    return tf.JetMoeForCausalLM(tf.JetMoeConfig(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_key_value_heads=2, kv_channels=12,
                                                num_local_experts=4, num_experts_per_tok=2, vocab_size=96))


def nemotron():
    return tf.NemotronHForCausalLM(tf.NemotronHConfig(hidden_size=48, num_hidden_layers=2, layers_block_type=["mamba", "moe"], vocab_size=96, mamba_num_heads=4, mamba_head_dim=8,
                                                      ssm_state_size=8, n_groups=1, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                                                      moe_shared_expert_intermediate_size=40))


def step():
    text = dict(model_type="step3p5", hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_sliding_attention_heads=4,
                head_dim=16, vocab_size=96, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, share_expert_dim=24,
                layer_types=["full_attention"] * 2, mlp_layer_types=["dense", "sparse"], pad_token_id=0)
    vision = dict(model_type="step3p5_vision", hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    return tf.Step3p7ForConditionalGeneration(tf.Step3p7Config(text_config=text, vision_config=vision))


def inkling():
    config = tf.models.auto.configuration_auto.CONFIG_MAPPING["inkling2_text"]
    return tf.AutoModelForCausalLM.from_config(config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=16, swa_head_dim=16,
        vocab_size=96, unpadded_vocab_size=90, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, layer_types=["hybrid_sliding", "hybrid"],
        n_layers_per_attn_res_block=1, pad_token_id=0, eos_token_id=1))


def zamba():
    return tf.ZambaForCausalLM(tf.ZambaConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4, vocab_size=96, mamba_d_state=8,
                                              mamba_dt_rank=4, layers_block_type=["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"]))


def mamba():
    return tf.MambaForCausalLM(tf.MambaConfig(hidden_size=48, state_size=16, num_hidden_layers=2, vocab_size=96))


def opt():
    return tf.OPTForCausalLM(tf.OPTConfig(hidden_size=48, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
                                          max_position_embeddings=32, word_embed_proj_dim=48))


def neox():
    return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                                  vocab_size=96, max_position_embeddings=32))


def bart():
    return tf.BartForConditionalGeneration(tf.BartConfig(d_model=48, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                                                         encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=96, max_position_embeddings=32))


def whisper():
    return tf.WhisperForConditionalGeneration(tf.WhisperConfig(d_model=48, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                                                               encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=96, num_mel_bins=16, max_source_positions=20,
                                                               max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1))


def llava():
    vision = tf.CLIPVisionConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8)
    text = tf.LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=160)
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=150))


def resnet():
    return tf.ResNetForImageClassification(tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 24], depths=[1, 1], num_labels=3, layer_type="basic"))


QV, ALL = ["q_proj", "v_proj"], "all-linear"


def case(model, dtype="bf16", safe=False, exact=True, n=1, scale=0.05, autocast=True, more=(), **config):
    """more: what sets each further adapter apart from the first."""
    configs = [config] * n + [{**config, **m} for m in more]
    return dict(model=model, dtype=dtype, safe=safe, exact=exact, scale=scale, autocast=autocast, configs=configs)


MERGES = {
    "qv": case(llama, r=8, target_modules=QV),
    "all-linear": case(llama, r=16, lora_alpha=32, target_modules=ALL),
    "mica": case(llama, r=4, target_modules=["embed_tokens", "q_proj", "down_proj"], init_lora_weights="mica", more=[dict(init_lora_weights=True)]),
    "velora": case(llama, r=4, target_modules=QV, velora_config=VeloraConfig(num_groups=8)),
    "f16": case(llama, "f16", r=8, lora_alpha=24, target_modules=ALL),
    "f32": case(llama, "f32", r=8, target_modules=ALL),
    "odd-alpha": case(llama, r=3, lora_alpha=10, target_modules=ALL),
    "rank-192": case(llama, r=192, lora_alpha=64, target_modules=["q_proj"], scale=0.01),
    "rslora": case(llama, r=8, lora_alpha=5, use_rslora=True, target_modules=ALL),
    "rank-pattern": case(llama, r=4, target_modules=ALL, rank_pattern={"layers.1.self_attn.q_proj": 12, "up_proj": 6, r"^model\.layers\.0\..*k_proj": 2}),
    "alpha-pattern": case(llama, r=4, target_modules=ALL, alpha_pattern={r".*\.1\..*_proj": 3, "o_proj": 40}, rank_pattern={"down_proj": 16}, use_rslora=True),
    "layers": case(llama, r=4, target_modules=QV, layers_to_transform=[1]),
    "regex": case(llama, r=4, target_modules=r".*\.layers\.0\.mlp\.(up|down)_proj"),
    "safe": case(llama, r=8, lora_alpha=16, target_modules=ALL, safe=True),
    "safe-f16": case(llama, "f16", r=8, target_modules=ALL, safe=True),
    "bf16-adapter": case(llama, r=8, target_modules=ALL, autocast=False),
    "two": case(llama, r=8, target_modules=ALL, n=2),
    "three-safe": case(llama, r=4, target_modules=QV, n=3, safe=True),
    "bias-all": case(lambda: llama(attention_bias=True, mlp_bias=True), r=4, target_modules=QV, bias="all"),
    "bias-lora-only": case(lambda: llama(attention_bias=True), r=4, target_modules=QV, bias="lora_only"),
    "lora-bias": case(lambda: llama(attention_bias=True, mlp_bias=True), r=4, lora_alpha=12, target_modules=ALL, lora_bias=True),
    "modules-to-save": case(llama, r=4, target_modules=QV, modules_to_save=["lm_head", "norm"]),
    "embeddings": case(llama, r=4, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "tied": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=["embed_tokens", "q_proj"]),
    "tied-head": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=["lm_head", "q_proj"]),
    "tied-saved-embeddings": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=QV, modules_to_save=["embed_tokens"]),
    "tied-saved-head": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=QV, modules_to_save=["lm_head"]),
    "tied-saved-both": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]),
    "llama4": case(llama4, r=4, target_modules=QV, target_parameters=["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]),
    "tokens": case(llama, r=4, target_modules=QV, trainable_token_indices=[3, 90, 17]),
    "tokens-head": case(llama, r=4, target_modules=QV, trainable_token_indices={"embed_tokens": [5], "lm_head": [7, 1]}),
    "dora": case(llama, r=8, target_modules=ALL, use_dora=True, exact=False),
    "dora-f16-safe": case(llama, "f16", r=8, target_modules=QV, use_dora=True, exact=False, safe=True),
    "dora-f32": case(llama, "f32", r=8, target_modules=QV, use_dora=True, exact=False),
    "dora-embedding": case(llama, r=4, target_modules=["embed_tokens", "q_proj"], use_dora=True, exact=False),
    "dora-two": case(llama, r=4, target_modules=QV, use_dora=True, exact=False, n=2),
    "dora-two-safe-f16": case(llama, "f16", r=4, target_modules=["q_proj", "embed_tokens"], use_dora=True, exact=False, safe=True, n=2),
    "dora-tied": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=["embed_tokens", "lm_head", "q_proj"], use_dora=True, exact=False),
    "lora-dora": case(llama, r=4, target_modules=QV, exact=False, more=[dict(use_dora=True)]),
    "lora-dora-lora-dora-safe": case(llama, r=4, target_modules=QV, exact=False, safe=True, more=[dict(use_dora=True), {}, dict(use_dora=True)]),
    "dora-lora-dora": case(gpt2, r=4, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True, exact=False, more=[dict(use_dora=False), dict(use_dora=True)]),
    "gpt2": case(gpt2, r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
    "gpt2-dora": case(gpt2, r=4, target_modules=["c_attn", "c_proj"], use_dora=True, exact=False),
    "gpt2-embeddings": case(gpt2, "f16", r=4, target_modules=["wte", "wpe", "c_attn"]),
    "bert": case(bert, "f32", r=4, target_modules=["query", "value", "dense"], task_type="SEQ_CLS"),
    "bert-head": case(bert_words, r=4, target_modules=["query", "decoder"], bias="all"),
    "bert-head-bias": case(bert_words, r=4, lora_alpha=10, target_modules=["query", "cls.predictions.decoder"], lora_bias=True),
    "bert-saved-head": case(bert_words, r=4, target_modules=["query"], modules_to_save=["decoder"]),
    "distilbert-saved-embeddings": case(distilbert, "f16", r=4, target_modules=["q_lin"], modules_to_save=["word_embeddings"]),
    "tying-of-no-consequence": case(gpt2, r=4, target_modules=["c_attn"], modules_to_save=["wte"], ensure_weight_tying=True),
    "vit": case(vit, r=4, target_modules=["q_proj", "fc1"], bias="all", modules_to_save=["layernorm_before"]),
    "t5": case(t5, r=4, target_modules=["q", "v", "wi", "wo"]),
    "opt": case(opt, "f16", r=4, target_modules=ALL),
    "neox": case(neox, r=4, target_modules=["query_key_value", "dense"]),
    "mixtral": case(mixtral, r=4, lora_alpha=7, target_modules=QV, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "mixtral-down": case(mixtral, r=4, target_modules=QV, target_parameters=["mlp.experts.down_proj"], rank_pattern={"experts.down_proj": 2}),
    "qwen-moe": case(qwen_moe, r=4, target_modules=QV, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "gpt-oss": case(gpt_oss, r=4, target_modules=QV, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "granite-moe": case(granite_moe, r=4, target_modules=QV, target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    "jetmoe": case(jetmoe, r=4, target_modules=["kv_proj"], target_parameters=["mlp.input_linear.weight", "mlp.output_linear.weight"]),
    "nemotron": case(nemotron, "f32", r=4, target_modules=["up_proj"], target_parameters=["experts.up_proj", "experts.down_proj"]),
    "step": case(step, r=4, target_modules=["g_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]),
    "inkling": case(inkling, "f32", r=4, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    "inkling-gate-up": case(inkling, "f32", r=4, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj"]),
    "nemotron-router": case(nemotron, "f32", r=4, target_modules=["down_proj"], target_parameters=["mixer.gate.weight"], modules_to_save=["up_proj"]),
    "zamba": case(zamba, "f32", r=4, target_modules=["q_proj", "down_proj"], more=[dict(r=2)]),
    "zamba-dora": case(zamba, "f32", r=4, target_modules=["q_proj", "down_proj"], use_dora=True, exact=False),
    "a-log": case(mamba, "f32", r=4, target_modules=[], target_parameters=["mixer.A_log"]),
    "router": case(mixtral, r=4, target_modules=QV, target_parameters=["mlp.gate.weight"]),
    "whisper-head": case(whisper, r=4, target_modules=["q_proj", "proj_out"]),
    "encoder-decoder-embeddings": case(bart, r=4, target_modules=["embed_tokens", "q_proj"]),
    "tied-embeddings-and-head": case(lambda: llama(tie_word_embeddings=True), r=4, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "two-of-embeddings": case(lambda: llama(tie_word_embeddings=True), r=4, n=2, safe=True, target_modules=["embed_tokens", "o_proj"]),
    "llava": case(llava, r=4, target_modules=ALL),
    "conv": case(resnet, "f32", r=4, target_modules=["convolution"], exact=False),
}


def fill(model, scale, seed):
    """Factors as after training: what PEFT begins with is B = 0."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_magnitude" in name:
            p.data *= 1 + 0.1 * torch.randn(p.shape, generator=g).to(p)
        elif "lora_" in name:
            p.data = (scale * torch.randn(p.shape, generator=g)).to(p)
        elif "trainable_tokens_delta" in name or "modules_to_save" in name or p.requires_grad:
            p.data += (scale * torch.randn(p.shape, generator=g)).to(p)


def make(out, name, c):
    torch.manual_seed(1)
    dtype = DTYPES[c["dtype"]]
    base = out / name / "base"
    c["model"]().to(dtype).save_pretrained(base)
    load = getattr(tf, json.loads((base / "config.json").read_text())["architectures"][0]).from_pretrained
    adapters = []
    for i, config in enumerate(c["configs"]):
        model = get_peft_model(load(base, dtype=dtype), LoraConfig(**config), autocast_adapter_dtype=c["autocast"])
        fill(model, c["scale"], 10 + i)
        adapters.append(str(out / name / ("adapter" + (str(i + 1) if i else ""))))
        model.save_pretrained(adapters[-1])
    merged = PeftModel.from_pretrained(load(base, dtype=dtype), adapters[0])
    names = ["default"]
    for i, a in enumerate(adapters[1:]):
        names.append("more%d" % i)
        merged.load_adapter(a, names[-1])
    merged.merge_and_unload(safe_merge=c["safe"], adapter_names=names).save_pretrained(out / name / "merged")
    return {"name": name, "adapters": adapters, "safe": c["safe"], "exact": c["exact"]}


def merge(case):
    return {"merges": [make(Path(case["out"]), n, MERGES[n]) for n in case["names"] or MERGES]}


def four_bit(case):
    out, dtype = Path(case["out"]), getattr(torch, case["dtype"])
    torch.manual_seed(3)
    llama().to(dtype).save_pretrained(out / "source")
    common.quantize("causal", str(out / "source"), case["dtype"], case["type"], case["double_quant"]).save_pretrained(out / "base")
    model = get_peft_model(common.load("causal", out / "base", dtype=dtype)[0], LoraConfig(r=8, lora_alpha=12, target_modules=ALL, use_dora=case["dora"]))
    fill(model, 0.03, 5)
    model.save_pretrained(out / "adapter")
    peft = PeftModel.from_pretrained(common.load("causal", out / "base", dtype=dtype)[0], out / "adapter")
    decoded = {}
    for name, m in peft.named_modules():
        if hasattr(m, "get_delta_weight"):
            w = m.get_base_layer().weight
            w = dequantize_4bit(w.data, w.quant_state)
            with torch.no_grad():
                w = m.lora_variant["default"].merge_safe(m, "default", w) if case["dora"] else w + m.get_delta_weight("default")
            decoded[name.removeprefix("base_model.model.") + ".weight"] = w.to(dtype)
    save_file(decoded, out / "decoded.safetensors")
    # transformers 5.23 cannot save it ("NotImplementedError" in revert_weight_conversion)
    merged = {}
    for name, m in common.linear4bit(peft.merge_and_unload()).items():
        state = m.weight.quant_state
        merged[name + ".weight"], merged[name + ".weight.absmax"] = m.weight.data, state.absmax
    save_file(merged, out / "merged.safetensors")
    return {}


COMBINES = {
    "cat": dict(weights=[0.7, 0.3], combination_type="cat"),
    "svd": dict(weights=[0.7, -0.3], combination_type="svd"),
    "svd-5": dict(weights=[1.0, 1.0], combination_type="svd", svd_rank=5),
    "linear": dict(weights=[0.7, -0.3], combination_type="linear"),
    "ties": dict(weights=[1.0, 0.5], combination_type="ties", density=0.4),
    "ties-frequency": dict(weights=[1.0, 0.5], combination_type="ties", density=0.4, majority_sign_method="frequency"),
    "magnitude_prune": dict(weights=[0.7, 0.3], combination_type="magnitude_prune", density=0.3),
}


def combine(case):
    out = Path(case["out"])
    torch.manual_seed(4)
    model = None
    for i, name in enumerate("ab"):
        config = LoraConfig(r=8, lora_alpha=6 + 7 * i, target_modules=["q_proj", "down_proj", "embed_tokens"])
        model = get_peft_model(llama(), config, adapter_name=name)
        fill(model, 0.05, 20 + i)
        model.save_pretrained(out, selected_adapters=[name], save_embedding_layers=False)
    model = PeftModel.from_pretrained(llama(), out / "a", adapter_name="a")
    model.load_adapter(out / "b", "b")
    for name, kw in COMBINES.items():
        model.add_weighted_adapter(["a", "b"], adapter_name=name, **kw)
        model.save_pretrained(out, selected_adapters=[name], save_embedding_layers=False)
    return {}


@torch.no_grad()
def init(case):
    """How far the adapter is from the best of its rank, by full singular value decompositions, and whether it changes anything."""
    source = common.load("causal", case["source"])[0]
    base = common.load("causal", case["base"])[0]
    before = common.forward(base)
    peft = PeftModel.from_pretrained(base, case["adapter"]).eval()
    worst, count = 0.0, 0
    for name, m in peft.named_modules():
        if hasattr(m, "get_delta_weight"):
            w = m.get_base_layer().weight
            q = dequantize_4bit(w.data, w.quant_state).double()
            path = name.removeprefix("base_model.model.")
            d = source.get_submodule(path).weight.double() - q
            e = d - m.get_delta_weight("default").double()
            if root := roots(case.get("grams")):
                d, e = d @ root(path), e @ root(path)
            best = torch.linalg.svdvals(d)[m.r["default"] :].norm()
            worst, count = max(worst, (e.norm() / best).item()), count + 1
    return {"worst": worst, "modules": count, "difference": common.relative(common.forward(peft), before)}


def roots(path):
    """The symmetric roots of the Gram matrices in a file of activations, by module."""
    if not path:
        return None
    with safe_open(path, "pt") as f:
        grams = {w: f.get_tensor(e + ".gram").double() for w, e in json.loads(f.metadata()["linears"]).items()}

    def root(module):
        values, vectors = torch.linalg.eigh(grams[module + ".weight"])
        return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T

    return root


@torch.no_grad()
def olora(case):
    ours = PeftModel.from_pretrained(common.load("causal", case["source"])[0], case["adapter"])
    config = ours.peft_config["default"]
    theirs = get_peft_model(common.load("causal", case["source"])[0].float(), LoraConfig(r=config.r, lora_alpha=config.lora_alpha,
                            target_modules=sorted(config.target_modules), init_lora_weights="olora"))
    want = {n: m.get_delta_weight("default") for n, m in theirs.named_modules() if hasattr(m, "get_delta_weight")}
    worst, count = 0.0, 0
    for name, m in ours.named_modules():
        if hasattr(m, "get_delta_weight"):
            w = want[name].double()
            worst, count = max(worst, ((m.get_delta_weight("default").double() - w).norm() / w.norm()).item()), count + 1
    return {"worst": worst, "modules": count}


KINDS = {"merge": merge, "4bit": four_bit, "combine": combine, "init": init, "olora": olora}

if __name__ == "__main__":
    common.serve(lambda case: {"error": "", **KINDS[case["kind"]](case)})
