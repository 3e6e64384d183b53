"""Settings for config classes whose defaults do not build a model: values of
published checkpoints where the model type has some."""

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_theta": 500000.0}

MROPE = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
QWEN4 = {"ple_layer_ids": [1, 2], "ple_embed_dim": 64, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 256,
         "indexer_budget": 64, "indexer_compress_ratio": 4, "output_gate_type": "sigmoid", "eos_token_id": 1}
BOTH_ROPES = {"full_attention": {"rope_type": "default", "rope_theta": 10000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}

SETTINGS = {
    "autoformer": {"prediction_length": 24},
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_attention_heads": 16,
                                     "intermediate_size": 4304, "num_hidden_layers": 26, "image_size": 364, "patch_size": 14}},
    "bridgetower": {"contrastive_hidden_size": 512, "logit_scale_init_value": 2.6592},
    "chameleon": {"vocabulary_map": {"<image>": 8711, "IMGIMGA": 4}},
    "cohere_compass": {"text_config": {"rope_parameters": BOTH_ROPES}},
    "cohere_compass_text": {"rope_parameters": BOTH_ROPES},
    "dbrx": {"attn_config": {"rope_theta": 500000.0, "kv_n_heads": 8, "clip_qkv": 8}},
    "deepseek_ocr2": {"text_config": {"num_hidden_layers": 4, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}},
    "deepseek_ocr2_text": {"num_hidden_layers": 4, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "diffusion_gemma": {"text_config": {"num_hidden_layers": 6, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 704}},
    "diffusion_gemma_text": {"num_hidden_layers": 6, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 704},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "emu3": {"vocabulary_map": {"<image>": 8711, "<|visual token 000000|>": 5, "<|extra_200|>": 6}},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 12}},
    "granite4_vision": {"deepstack_layer_map": [[0, 3], [8, 6]], "downsample_rate": "1/2"},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 4},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "hunyuan_vl_text": {"head_dim": 128},
    "idefics3": {"pad_token_id": 2, "text_config": {"model_type": "llama", "vocab_size": 128259, "pad_token_id": 128002}},
    "informer": {"prediction_length": 24},
    "lfm2_moe": {"num_hidden_layers": 4, "num_experts": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "ministral": {"head_dim": 128},
    "mllama": {"text_config": {"rope_scaling": LLAMA3_ROPE}},
    "mllama_text_model": {"rope_scaling": LLAMA3_ROPE},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "moshi": {"audio_vocab_size": 2048},
    "nemotron": {"num_key_value_heads": 8},
    "perception_lm": {"vision_config": {"model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
                                        "model_args": {"embed_dim": 1024, "depth": 4, "img_size": [448, 448]}}},
    "phi4_multimodal": {"vision_config": {}, "audio_config": {}},
    "qwen3_omni_moe": {
        "thinker_config": {"text_config": {"num_experts": 4, "rope_scaling": MROPE}},
        "talker_config": {"spatial_merge_size": 2, "text_config": {
            "num_experts": 4, "shared_expert_intermediate_size": 768, "rope_scaling": MROPE}}},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 768},
    "qwen3_vl": {"text_config": {"rope_scaling": MROPE}},
    "qwen3_vl_text": {"rope_scaling": MROPE},
    "qwen3_vl_moe": {"text_config": {"num_experts": 4, "rope_scaling": MROPE}},
    "qwen3_vl_moe_text": {"num_experts": 4, "rope_scaling": MROPE},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "smolvlm": {"pad_token_id": 2, "text_config": {"model_type": "llama", "vocab_size": 49280, "pad_token_id": 2}},
    "superglue": {"keypoint_encoder_sizes": [32, 64, 128, 256]},
    "time_series_transformer": {"prediction_length": 24},
    "timm_backbone": {"backbone": "resnet50"},
    "tvp": {"type_vocab_size": 2, "layer_norm_eps": 1e-12},
    "vitmatte": {"fusion_hidden_sizes": [256, 128, 64, 32]},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"]},
}

# Settings that change the modules only together, tried besides the single ones
# of probe.SETTINGS.
VARIANTS = {
    "bamba": [{"attn_layer_indices": [1, 3]}],
    "deberta": [{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "talking_head": True}, {"embedding_size": 96}],
    "deberta-v2": [{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": False},
                   {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True, "position_buckets": 256}],
    "gpt_bigcode": [{"add_cross_attention": True, "multi_query": False}],
    "hubert": [{"do_stable_layer_norm": True, "adapter_attn_dim": 16}],
    "lfm2": [{"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]}],
    "nemotron_h": [{"moe_latent_size": 64}],
    "reformer": [{"is_decoder": True}],
    "unispeech": [{"do_stable_layer_norm": True, "adapter_attn_dim": 16}],
    "unispeech-sat": [{"do_stable_layer_norm": True, "adapter_attn_dim": 16}],
    "wav2vec2": [{"do_stable_layer_norm": True, "adapter_attn_dim": 16}, {"add_adapter": True, "output_hidden_size": 512}],
    "wav2vec2-bert": [{"add_adapter": True, "output_hidden_size": 512}],
    "wav2vec2-conformer": [{"add_adapter": True, "output_hidden_size": 512}],
    "wavlm": [{"add_adapter": True, "output_hidden_size": 512}],
    "xlstm": [{"weight_mode": "fused"}],
}

# Further settings for facts.py alone: values that change only together.
FACTS_VARIANTS = {
    "gpt_neo": [{"num_layers": n, "attention_types": [[["global", "local"], n // 2]]} for n in (4, 6, 10, 14)],
    "mamba2": [{"num_heads": 64, "head_dim": 128}, {"num_heads": 256, "head_dim": 32}, {"num_heads": 64, "hidden_size": 2048},
               {"num_heads": 32, "hidden_size": 1024}, {"num_heads": 64, "expand": 1}, {"num_heads": 192, "expand": 3}],
    "mllama": [{"vision_config.max_num_tiles": 2, "vision_config.supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
               {"vision_config.max_num_tiles": 3, "vision_config.supported_aspect_ratios": [[1, 1], [1, 3]], "vision_config.hidden_size": 640},
               {"vision_config.max_num_tiles": 1, "vision_config.supported_aspect_ratios": [[1, 1]]}],
    "wav2vec2": [{"output_hidden_size": 512}, {"add_adapter": True, "num_adapter_layers": 2}],
    "wavlm": [{"output_hidden_size": 512}, {"add_adapter": True, "num_adapter_layers": 2}],
    "wav2vec2-bert": [{"output_hidden_size": 512}, {"add_adapter": True, "num_adapter_layers": 2}],
    "wav2vec2-conformer": [{"output_hidden_size": 512}, {"add_adapter": True, "num_adapter_layers": 2}],
}

GEMMA4_MOE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 704}
FACTS_VARIANTS["gemma4_text"] = [
    GEMMA4_MOE, {**GEMMA4_MOE, "enable_moe_block": False}, {**GEMMA4_MOE, "num_experts": 6, "top_k_experts": 3, "hidden_size": 1152}, {**GEMMA4_MOE, "moe_intermediate_size": 352},
    {**GEMMA4_MOE, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 2},
    {"num_kv_shared_layers": 3, "use_double_wide_mlp": True}, {"num_kv_shared_layers": 5, "use_double_wide_mlp": True, "intermediate_size": 4608},
    {"num_kv_shared_layers": 4, "num_hidden_layers": 18}, {"num_kv_shared_layers": 6, "num_hidden_layers": 18, "use_double_wide_mlp": True},
    {"num_kv_shared_layers": 2, "attention_k_eq_v": True}, {"attention_k_eq_v": True, "num_hidden_layers": 18, "attention_bias": True},
    {"global_head_dim": 128}, {"global_head_dim": 256, "num_attention_heads": 4}, {"global_head_dim": 1024, "hidden_size": 1152}, {"global_head_dim": 96, "attention_bias": True},
    *({"attention_k_eq_v": True, "num_global_key_value_heads": n, **more} for n, more in (
        (1, {}), (2, {"global_head_dim": 128}), (2, {"hidden_size": 1152}), (8, {"num_key_value_heads": 2, "attention_bias": True}),
        (3, {"num_kv_shared_layers": 2, "global_head_dim": 64}))),
    {"use_double_wide_mlp": True}, {"use_double_wide_mlp": True, "intermediate_size": 4608}, {"num_kv_shared_layers": 2, "use_double_wide_mlp": True, "hidden_size": 1152},
]
FACTS_VARIANTS["gemma4"] = [{f"text_config.{k}": v for k, v in values.items()} for values in FACTS_VARIANTS["gemma4_text"]] + [
    {"audio_config": None}, {"vision_config": None}, {"audio_config": None, "vision_config": None}, {"audio_config": None, "vision_config.hidden_size": 1152},
    {"vision_config.use_clipped_linears": True, "audio_config.use_clipped_linears": False}, {"vision_config.standardize": True},
]

FACTS_VARIANTS["gemma3n_text"] = [{"intermediate_size": [16384] * 5 + [8192] * 5}, {"intermediate_size": [4096] * 7 + [8192] * 3}]
FACTS_VARIANTS["gemma3n"] = [{f"text_config.{k}": v for k, v in values.items()} for values in FACTS_VARIANTS["gemma3n_text"]]

# Types of which layers of a kind share blocks, and the kind: conditions may speak of a layer's rank among those of its kind.
FACTS_SHARED = {"zamba": "hybrid", "zamba2": "hybrid"}
FACTS_VARIANTS["zamba2"] = [
    {"num_mem_blocks": 2, "use_shared_attention_adapter": True}, {"num_mem_blocks": 3, "use_shared_attention_adapter": True, "adapter_rank": 96},
    {"num_mem_blocks": 2, "num_hidden_layers": 9, "layers_block_type": ["mamba", "mamba", "hybrid", "hybrid", "mamba", "hybrid", "hybrid", "hybrid", "mamba"]},
    {"num_mem_blocks": 3, "num_hidden_layers": 8, "layers_block_type": ["mamba", "hybrid", "hybrid", "hybrid", "hybrid", "mamba", "hybrid", "hybrid"],
     "use_shared_attention_adapter": True},
    {"num_mem_blocks": 2, "num_hidden_layers": 5, "layers_block_type": ["hybrid", "mamba", "hybrid", "hybrid", "hybrid"], "add_bias_linear": True},
]

# Values that a config class works out anew from others, whatever config.json says: expressions speak of those.
FACTS_DERIVED = {"zamba2": ("hybrid_layer_ids", "attention_hidden_size", "attention_head_dim", "mamba_headdim", "kv_channels", "num_query_groups")}

# Values that a config class takes and does not keep by their names: it writes what layers have in place of them into "per_layer_config".
FACTS_TAKEN = {"gemma4_text": {"global_head_dim": "head_dim", "num_global_key_value_heads": "num_key_value_heads"}}

# What facts.py alone builds on: nested configs that are null by default.
FACTS_SETTINGS = {"gemma4": {"vision_config": {}, "audio_config": {}}}

# Small values for facts.py of types that do not build with the few layers of others.
FACTS_BASE = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},  # every eighth has attention
    # layers that share keys and values need one of each kind before them
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 3},
    "gemma3n": {"text_config.num_hidden_layers": 10, "text_config.num_kv_shared_layers": 3, "audio_config.conf_num_hidden_layers": 4},
    "gemma4_text": {"num_hidden_layers": 12},  # every sixth has full attention
    "gemma4": {"text_config.num_hidden_layers": 12, "vision_config.num_hidden_layers": 4, "audio_config.num_hidden_layers": 4},
}

# For one version only.
SETTINGS_4 = {t: {"use_pretrained_backbone": False} for t in (
    "conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer")}
SETTINGS_4["zamba2"] = {"num_hidden_layers": 54}  # fewer than its list of block kinds do not build


def settings(model_type, v5):
    if not v5 and model_type in SETTINGS_4:
        return SETTINGS_4[model_type]
    return SETTINGS.get(model_type, {})
