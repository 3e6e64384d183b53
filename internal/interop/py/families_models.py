"""Small models of many architectures: their configs, their weights and what they take as input.

A case for the script: {"family": a key of FAMILIES; "out": directory}. It makes the model with random weights and writes it with
save_pretrained of the transformers it runs in. An answer with "absent" says that this version has no such model. The case
{"list": true} asks for the names of the families.
"""

import re

import common
import torch

tf = common.transformers

# Sizes by the name of the setting; a config gets those that it has. Where a default is None, it stays.
SMALL = {
    "vocab_size": 256, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "n_embed": 64, "embed_dim": 64,
    "embedding_size": 64, "hidden_dim": 128, "word_embed_proj_dim": 64,
    "intermediate_size": 128, "ffn_dim": 128, "d_ff": 128, "ffn_hidden_size": 128, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "expert_ffn_hidden_size": 64, "intermediate_size_mlp": 128,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_layers": 2, "depth": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "attention_heads": 4, "num_key_value_heads": 2, "n_kv_heads": 2, "head_dim": 16, "d_kv": 16, "kv_channels": 16,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128, "original_max_position_embeddings": 64,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_k": 2,
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "image_size": 32, "patch_size": 8, "projection_dim": 64, "projector_hidden_size": 64, "vision_output_dim": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 64,
    "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 16, "laurel_rank": 16, "alignment_intermediate_size": 128,
    "projector_input_dim": 64, "projector_output_dim": 64, "position_embedding_size": 64, "output_proj_dims": 64,
    "mamba_d_state": 16, "mamba_d_conv": 4, "state_size": 16, "mamba_dt_rank": 8, "time_step_rank": 8, "conv_kernel": 4,
}


class Family:
    """One architecture: its class, settings that differ from SMALL, and the function that makes its inputs."""

    def __init__(self, cls, inputs="text", type=None, sub=None, **settings):
        self.cls, self.inputs, self.type, self.sub, self.settings = cls, inputs, type, sub or {}, settings


def values(default, settings, sub):
    """Keyword arguments of a small config like default."""
    have = default.to_dict()
    out = {k: v for k, v in SMALL.items() if have.get(k) is not None and not isinstance(have[k], (bool, list, dict, tuple))}
    for key in getattr(default, "sub_configs", {}):
        nested = getattr(default, key, None)
        if nested is not None:
            out[key] = {"model_type": nested.model_type, **values(nested, sub.get(key, {}), {})}
    out |= settings
    return {k: v for k, v in out.items() if v is not DEFAULT}


DEFAULT = object()  # as a setting: leave the config's own


def config_of(family):
    f = FAMILIES[family]
    cls = tf.models.auto.configuration_auto.CONFIG_MAPPING[f.type or family]
    sub = {}
    for key, more in f.sub.items():
        sub[key] = more
    return cls(**values(cls(), f.settings, sub))


def class_of(family):
    return getattr(tf, FAMILIES[family].cls, None)


def ids(n=16, low=3, high=250, seed=1):
    return torch.randint(low, high, (1, n), generator=torch.Generator().manual_seed(seed))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)


def pixels(config):
    config = getattr(config, "vision_config", config)
    size = config.image_size
    size = size if isinstance(size, int) else size[0]
    return noise(1, getattr(config, "num_channels", 3), size, size)


def image_tokens(config, n):
    """A prompt that holds n image tokens."""
    token = getattr(config, "image_token_id", None)
    token = token if token is not None else config.image_token_index
    return torch.cat([ids(4), torch.full((1, n), token), ids(4, seed=3)], 1)


def grid(config, tokens):
    """Qwen-VL's packed patches of one image of 8 x 8 of them, and its place in the prompt."""
    v = config.vision_config
    width = getattr(v, "in_channels", getattr(v, "in_chans", 3)) * v.temporal_patch_size * v.patch_size**2
    start = torch.full((1, 1), config.vision_start_token_id) if hasattr(config, "vision_start_token_id") else torch.full((1, 1), 5)
    prompt = torch.cat([ids(4), start, image_tokens(config, tokens)[:, 4:]], 1)
    out = {"input_ids": prompt, "pixel_values": noise(64, width), "image_grid_thw": torch.tensor([[1, 8, 8]])}
    if common.transformers.__version__.startswith("5"):
        out["mm_token_type_ids"] = (prompt == config.image_token_id).int()
    return out


def image(n, **more):
    return lambda c: {"input_ids": image_tokens(c, n), "pixel_values": pixels(c), **{k: f(c) for k, f in more.items()}}


def encdec(c):
    return {"input_ids": ids(), "decoder_input_ids": ids(8, seed=4)}


INPUTS = {
    "text": lambda c: {"input_ids": ids()},
    "text-to-text": encdec,
    "image": lambda c: {"pixel_values": pixels(c)},
    "image and text": lambda c: {"input_ids": ids(8), "pixel_values": pixels(c)},
    "waveform": lambda c: {"input_values": noise(1, 4000)},
    "spectrogram": lambda c: {"input_features": noise(1, c.num_mel_bins, 2 * c.max_source_positions), "decoder_input_ids": ids(8)},
    "frames": lambda c: {"input_features": noise(1, 32, c.input_feat_per_channel), "decoder_input_ids": ids(8)},
}

TOKENS = {"image_token_id": 251, "image_token_index": 251}  # inside the small vocabulary
QWEN_VL = dict(image_token_id=251, video_token_id=252, vision_start_token_id=253, vision_end_token_id=254, vision_token_id=255)
ROPE3 = {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
MIXED = dict(layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4,
             linear_key_head_dim=16, linear_value_head_dim=16)
T5GEMMA = {k: SMALL[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                 "num_key_value_heads", "head_dim", "max_position_embeddings")}
WAVE = dict(conv_dim=(32, 32), conv_stride=(5, 4), conv_kernel=(10, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4)

FAMILIES = {
    # decoders
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "ministral": Family("MinistralForCausalLM", head_dim=16),
    "ministral3": Family("Ministral3ForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM"),
    "gemma": Family("GemmaForCausalLM"),
    "gemma2": Family("Gemma2ForCausalLM"),
    "gemma3_text": Family("Gemma3ForCausalLM"),
    "vaultgemma": Family("VaultGemmaForCausalLM"),
    "phi": Family("PhiForCausalLM"),
    "phi3": Family("Phi3ForCausalLM"),
    "opt": Family("OPTForCausalLM"),
    "gpt_neox": Family("GPTNeoXForCausalLM"),
    "gpt_neox_japanese": Family("GPTNeoXJapaneseForCausalLM"),
    "gpt2": Family("GPT2LMHeadModel"),
    "gptj": Family("GPTJForCausalLM", rotary_dim=8),
    "gpt_neo": Family("GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]]),
    "gpt_bigcode": Family("GPTBigCodeForCausalLM"),
    "openai-gpt": Family("OpenAIGPTLMHeadModel"),
    "bloom": Family("BloomForCausalLM"),
    "falcon": Family("FalconForCausalLM"),
    "stablelm": Family("StableLmForCausalLM"),
    "starcoder2": Family("Starcoder2ForCausalLM"),
    "olmo": Family("OlmoForCausalLM"),
    "olmo2": Family("Olmo2ForCausalLM"),
    "olmo3": Family("Olmo3ForCausalLM"),
    "granite": Family("GraniteForCausalLM"),
    "cohere": Family("CohereForCausalLM"),
    "cohere2": Family("Cohere2ForCausalLM"),
    "persimmon": Family("PersimmonForCausalLM"),
    "mpt": Family("MptForCausalLM"),
    "codegen": Family("CodeGenForCausalLM", rotary_dim=8),
    "xglm": Family("XGLMForCausalLM"),
    "biogpt": Family("BioGptForCausalLM"),
    "ctrl": Family("CTRLLMHeadModel", dff=128),
    "nemotron": Family("NemotronForCausalLM", num_key_value_heads=2),
    "exaone4": Family("Exaone4ForCausalLM"),
    "glm": Family("GlmForCausalLM"),
    "glm4": Family("Glm4ForCausalLM"),
    "smollm3": Family("SmolLM3ForCausalLM"),
    "helium": Family("HeliumForCausalLM"),
    "ernie4_5": Family("Ernie4_5ForCausalLM"),
    "hunyuan_v1_dense": Family("HunYuanDenseV1ForCausalLM", head_dim=16),
    "seed_oss": Family("SeedOssForCausalLM"),
    "arcee": Family("ArceeForCausalLM"),
    "apertus": Family("ApertusForCausalLM"),
    "bitnet": Family("BitNetForCausalLM"),
    "diffllama": Family("DiffLlamaForCausalLM"),
    "modernbert-decoder": Family("ModernBertDecoderForCausalLM"),
    "cwm": Family("CwmForCausalLM"),
    # mixtures of experts
    "mixtral": Family("MixtralForCausalLM"),
    "qwen2_moe": Family("Qwen2MoeForCausalLM"),
    "qwen3_moe": Family("Qwen3MoeForCausalLM"),
    "qwen3_next": Family("Qwen3NextForCausalLM", **MIXED),
    "qwen3_5_text": Family("Qwen3_5ForCausalLM", **MIXED),
    "phimoe": Family("PhimoeForCausalLM"),
    "olmoe": Family("OlmoeForCausalLM"),
    "flex_olmo": Family("FlexOlmoForCausalLM"),
    "granitemoe": Family("GraniteMoeForCausalLM"),
    "granitemoeshared": Family("GraniteMoeSharedForCausalLM", shared_intermediate_size=64),
    "glm4_moe": Family("Glm4MoeForCausalLM", n_shared_experts=1, first_k_dense_replace=1),
    "deepseek_v2": Family("DeepseekV2ForCausalLM", num_key_value_heads=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1),
    "deepseek_v3": Family("DeepseekV3ForCausalLM", num_key_value_heads=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1),
    "dots1": Family("Dots1ForCausalLM", n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1),
    "ernie4_5_moe": Family("Ernie4_5_MoeForCausalLM", moe_layer_start_index=1),
    "hunyuan_v1_moe": Family("HunYuanMoEV1ForCausalLM", head_dim=16, moe_topk=2, num_shared_expert=1),
    "gpt_oss": Family("GptOssForCausalLM"),
    "llama4_text": Family("Llama4ForCausalLM", interleave_moe_layer_step=1),
    "minimax": Family("MiniMaxForCausalLM", block_size=16),
    "dbrx": Family("DbrxForCausalLM", ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}, attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}),
    "jetmoe": Family("JetMoeForCausalLM"),
    "lfm2_moe": Family("Lfm2MoeForCausalLM", layer_types=["conv", "full_attention"], num_dense_layers=1),
    "exaone_moe": Family("ExaoneMoeForCausalLM"),
    "minimax_m2": Family("MiniMaxM2ForCausalLM"),
    "afmoe": Family("AfmoeForCausalLM"),
    # state spaces and hybrids
    "mamba": Family("MambaForCausalLM"),
    "mamba2": Family("Mamba2ForCausalLM", num_heads=8, head_dim=16, n_groups=1, chunk_size=16),
    "falcon_mamba": Family("FalconMambaForCausalLM"),
    "jamba": Family("JambaForCausalLM", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False),
    "bamba": Family("BambaForCausalLM", mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1, attn_layer_indices=[1]),
    "zamba": Family("ZambaForCausalLM", num_hidden_layers=6, attn_layer_period=2, attn_layer_offset=1, attention_hidden_size=128,
                    attention_head_dim=32, n_mamba_heads=2, use_mamba_kernels=False),
    "zamba2": Family("Zamba2ForCausalLM", num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], mamba_headdim=16,
                     mamba_ngroups=1, n_mamba_heads=8, num_mem_blocks=1, adapter_rank=8, hybrid_layer_ids=[1, 3]),
    "falcon_h1": Family("FalconH1ForCausalLM", mamba_d_ssm=128, mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1),
    "granitemoehybrid": Family("GraniteMoeHybridForCausalLM", layer_types=["mamba", "attention"], mamba_n_heads=8, mamba_d_head=16,
                               mamba_n_groups=1, shared_intermediate_size=64),
    "nemotron_h": Family("NemotronHForCausalLM"),
    "lfm2": Family("Lfm2ForCausalLM", layer_types=["conv", "full_attention"]),
    "recurrent_gemma": Family("RecurrentGemmaForCausalLM", num_hidden_layers=3, lru_width=64, attention_window_size=32),
    # encoders
    "bert": Family("BertForMaskedLM"),
    "roberta": Family("RobertaForMaskedLM"),
    "xlm-roberta": Family("XLMRobertaForMaskedLM"),
    "camembert": Family("CamembertForMaskedLM"),
    "distilbert": Family("DistilBertForMaskedLM"),
    "electra": Family("ElectraForPreTraining"),
    "albert": Family("AlbertForMaskedLM"),
    "deberta": Family("DebertaForMaskedLM"),
    "deberta-v2": Family("DebertaV2ForMaskedLM"),
    "mpnet": Family("MPNetForMaskedLM"),
    "modernbert": Family("ModernBertForMaskedLM"),
    "eurobert": Family("EuroBertForMaskedLM"),
    "esm": Family("EsmForMaskedLM", vocab_size=256, mask_token_id=4, pad_token_id=0, position_embedding_type="rotary"),
    "roformer": Family("RoFormerForMaskedLM"),
    "rembert": Family("RemBertForMaskedLM", input_embedding_size=64, output_embedding_size=64),
    "convbert": Family("ConvBertForMaskedLM"),
    "big_bird": Family("BigBirdForMaskedLM", attention_type="original_full"),
    "longformer": Family("LongformerForMaskedLM", attention_window=8),
    "squeezebert": Family("SqueezeBertForMaskedLM"),
    "xlnet": Family("XLNetLMHeadModel", d_inner=128),
    "fnet": Family("FNetForMaskedLM"),
    "bert-classifier": Family("BertForSequenceClassification", type="bert"),
    "llama-classifier": Family("LlamaForSequenceClassification", type="llama"),
    # encoder-decoders
    "t5": Family("T5ForConditionalGeneration", "text-to-text"),
    "t5-gated": Family("T5ForConditionalGeneration", "text-to-text", type="t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": Family("MT5ForConditionalGeneration", "text-to-text"),
    "umt5": Family("UMT5ForConditionalGeneration", "text-to-text"),
    "longt5": Family("LongT5ForConditionalGeneration", "text-to-text"),
    "switch_transformers": Family("SwitchTransformersForConditionalGeneration", "text-to-text", num_experts=6, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    "bart": Family("BartForConditionalGeneration", "text-to-text"),
    "mbart": Family("MBartForConditionalGeneration", "text-to-text"),
    "pegasus": Family("PegasusForConditionalGeneration", "text-to-text"),
    "blenderbot": Family("BlenderbotForConditionalGeneration", "text-to-text"),
    "marian": Family("MarianMTModel", "text-to-text", decoder_vocab_size=256, decoder_start_token_id=3),
    "m2m_100": Family("M2M100ForConditionalGeneration", "text-to-text"),
    "nllb-moe": Family("NllbMoeForConditionalGeneration", "text-to-text", num_experts=6, encoder_sparse_step=2, decoder_sparse_step=2),
    "plbart": Family("PLBartForConditionalGeneration", "text-to-text"),
    "led": Family("LEDForConditionalGeneration", "text-to-text", attention_window=8),
    "t5gemma": Family("T5GemmaForConditionalGeneration", "text-to-text", encoder=T5GEMMA, decoder=T5GEMMA),
    # vision
    "clip": Family("CLIPModel", "image and text"),
    "siglip": Family("SiglipModel", "image and text"),
    "blip": Family("BlipForConditionalGeneration", "image and text"),
    "vit": Family("ViTForImageClassification", "image"),
    "deit": Family("DeiTForImageClassification", "image"),
    "beit": Family("BeitForImageClassification", "image"),
    "dinov2": Family("Dinov2ForImageClassification", "image"),
    "swin": Family("SwinForImageClassification", "image", embed_dim=32, depths=[1, 1], num_heads=[2, 4], window_size=2, patch_size=4),
    # speech
    "whisper": Family("WhisperForConditionalGeneration", "spectrogram"),
    "wav2vec2": Family("Wav2Vec2ForCTC", "waveform", **WAVE),
    "hubert": Family("HubertForCTC", "waveform", **WAVE),
    "wavlm": Family("WavLMForCTC", "waveform", **WAVE),
    "speech_to_text": Family("Speech2TextForConditionalGeneration", "frames", conv_channels=64, input_feat_per_channel=16),
    "moonshine": Family("MoonshineForConditionalGeneration", lambda c: {"input_values": noise(1, 4000), "decoder_input_ids": ids(8)},
                        encoder_num_hidden_layers=2, decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
                        encoder_num_key_value_heads=4, decoder_num_key_value_heads=4),
    # image, sound and text
    "llava": Family("LlavaForConditionalGeneration", image(16), image_token_index=251, image_token_id=DEFAULT),
    "llava_next": Family("LlavaNextForConditionalGeneration", "text", image_token_index=251),
    "vipllava": Family("VipLlavaForConditionalGeneration", image(16), image_token_index=251, vision_feature_layers=[-2, -1]),
    "llava_onevision": Family("LlavaOnevisionForConditionalGeneration", "text"),
    "paligemma": Family("PaliGemmaForConditionalGeneration", image(16), image_token_index=251),
    "gemma3": Family("Gemma3ForConditionalGeneration", image(4), image_token_index=251, boi_token_index=252, eoi_token_index=253, mm_tokens_per_image=4),
    "gemma3n": Family("Gemma3nForConditionalGeneration", "text"),
    "gemma3n_text": Family("Gemma3nForCausalLM", num_kv_shared_layers=0, layer_types=["full_attention", "full_attention"]),
    "gemma4": Family("Gemma4ForConditionalGeneration", "text"),
    "idefics3": Family("Idefics3ForConditionalGeneration", lambda c: {"input_ids": image_tokens(c, 4), "pixel_values": pixels(c)[:, None]},
                       scale_factor=2, image_token_id=251),
    "smolvlm": Family("SmolVLMForConditionalGeneration", lambda c: {"input_ids": image_tokens(c, 4), "pixel_values": pixels(c)[:, None]},
                      scale_factor=2, image_token_id=251),
    "mllama": Family("MllamaForConditionalGeneration", "text", sub={
        "text_config": {"rope_scaling": {"rope_type": "default", "rope_theta": 10000.0}, "cross_attention_layers": [1]},
        "vision_config": {"num_global_layers": 1, "intermediate_layers_indices": [0], "vision_output_dim": 128, "max_num_tiles": 1,
                          "supported_aspect_ratios": [[1, 1]]}}),
    "internvl": Family("InternVLForConditionalGeneration", image(4), sub={"vision_config": {"image_size": (32, 32), "patch_size": (8, 8)}}, image_token_id=251),
    "aya_vision": Family("AyaVisionForConditionalGeneration", image(4), image_token_index=251),
    "cohere2_vision": Family("Cohere2VisionForConditionalGeneration", image(4), image_token_id=251),
    "mistral3": Family("Mistral3ForConditionalGeneration", image(4, image_sizes=lambda c: torch.tensor([[32, 32]])), image_token_index=251),
    "qwen2_vl": Family("Qwen2VLForConditionalGeneration", lambda c: grid(c, 16), sub={"text_config": ROPE3, "vision_config": {}}, **QWEN_VL),
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", lambda c: grid(c, 16), sub={"text_config": ROPE3, "vision_config": {"out_hidden_size": 64}}, **QWEN_VL),
    "qwen3_vl": Family("Qwen3VLForConditionalGeneration", lambda c: grid(c, 16), sub={"text_config": ROPE3, "vision_config": {"out_hidden_size": 64, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}}, **QWEN_VL),
    "qwen3_vl_moe": Family("Qwen3VLMoeForConditionalGeneration", lambda c: grid(c, 16), sub={"text_config": ROPE3, "vision_config": {"out_hidden_size": 64, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}}, **QWEN_VL),
    "qwen3_5": Family("Qwen3_5ForConditionalGeneration", lambda c: grid(c, 16), sub={"text_config": {**ROPE3, **MIXED}, "vision_config": {"out_hidden_size": 64, "num_position_embeddings": 64}}, **QWEN_VL),
    "glm4v": Family("Glm4vForConditionalGeneration", "text", sub={"text_config": {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]}}, "vision_config": {"out_hidden_size": 64}}),
    "qwen2_audio": Family("Qwen2AudioForConditionalGeneration", "text"),
    "voxtral": Family("VoxtralForConditionalGeneration", "text"),
    "granite_speech": Family("GraniteSpeechForConditionalGeneration", "text"),
    "llama4": Family("Llama4ForConditionalGeneration", "text", sub={"vision_config": {"intermediate_size": 256}}),
    "florence2": Family("Florence2ForConditionalGeneration", "text", sub={"vision_config": {
        "depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1), "patch_prenorm": (False, True),
        "embed_dim": (32, 64), "num_heads": (4, 4), "num_groups": (4, 4), "window_size": 2}}),
    "blip-2": Family("Blip2ForConditionalGeneration", image(4), image_token_index=251, num_query_tokens=4),
    "chameleon": Family("ChameleonForConditionalGeneration", "text", vocabulary_map={"<image>": 251}),
    "janus": Family("JanusForConditionalGeneration", "text"),
    "git": Family("GitForCausalLM", "image and text"),
    "pixtral": Family("PixtralVisionModel", lambda c: {"pixel_values": pixels(c), "image_sizes": torch.tensor([[32, 32]])}),
}


def inputs_of(family, config):
    make = FAMILIES[family].inputs
    return (INPUTS[make] if isinstance(make, str) else make)(config)


def model_of(family):
    """The model, its weights random and none of them 0 or 1, in bfloat16 but for what its class holds in float32."""
    torch.manual_seed(20260911)
    config = config_of(family)
    config.dtype = torch.bfloat16
    for key in getattr(config, "sub_configs", {}):
        if getattr(config, key, None) is not None:
            getattr(config, key).dtype = torch.bfloat16
    try:
        with torch.device("meta"):  # a size that SMALL does not know would take all memory
            outline = class_of(family)(config)
        size, name = max((p.numel(), n) for n, p in outline.named_parameters())
        if size > 4 << 20:
            raise ValueError(f"{name} has {size} weights: add its size to SMALL")
    except NotImplementedError:  # a class that cannot be built without its weights
        pass
    model = class_of(family)(config)
    strict = "|".join(getattr(model, "_keep_in_fp32_modules_strict", None) or ["$."])
    with torch.no_grad():
        for name, p in model.named_parameters():  # norms and biases of ones and zeros would hide a mix-up
            p.add_(torch.randn(p.shape) * 0.02)
            if not re.search(rf"(^|\.)({strict})($|\.)", name):
                p.data = p.data.to(torch.bfloat16)
    return model.eval()


def handle(case):
    if case.get("list"):
        return {"error": "", "families": list(FAMILIES)}
    family = case["family"]
    if class_of(family) is None:
        return {"error": "", "absent": "no class " + FAMILIES[family].cls}
    model = model_of(family)
    model.save_pretrained(case["out"])
    return {"error": "", "absent": ""}


if __name__ == "__main__":
    common.serve(handle)
