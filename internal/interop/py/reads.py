"""Small models of the types in arch's data/reads.txt, whose code reads the weight of some Linear itself, and whether they run.

A case {"list": true} asks for the names of MODELS. {"model": one of them, "out": directory} makes it, runs it in bfloat16 and
saves it; "absent" says that this version has no such class, "fails" what building or running raises, and "types" are those that its
config and those nested in it have. {"model", "source", "converted": directories} loads a converted checkpoint and runs it; "fails" says
what loading or running raises, "source_fails" what then befalls its source, "finite" that the output is finite.
"""

import common
import families
import families_models as models
import torch
from families_models import Family, ids, image_tokens, noise

XVECTOR = dict(models.WAVE, tdnn_dim=(32, 32, 32), tdnn_kernel=(5, 3, 1), tdnn_dilation=(1, 2, 1), xvector_output_dim=32)
PRETRAINING = dict(models.WAVE, num_codevectors_per_group=8, codevector_dim=32, proj_codevector_dim=32)


def waveform(c):
    return {"input_values": noise(1, 16000)}


def text_and_pixels(n):
    return lambda c: {"input_ids": ids(n), "pixel_values": models.pixels(c)}


def packed_patches(width, **more):
    """Patches of one image of 4 x 4 of them, with their grid."""
    return lambda c: {"pixel_values": noise(16, width), "grid_thw": torch.tensor([[1, 4, 4]]), **more}


def siglip2(c):
    return {"pixel_values": noise(1, 16, 192), "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int64),
            "spatial_shapes": torch.tensor([[4, 4]])}


def flattened(n, width):
    """Pix2Struct's patches: each behind its row and column."""
    place = torch.stack([torch.arange(n) // 4 + 1, torch.arange(n) % 4 + 1], 1)[None]
    return torch.cat([place.to(torch.bfloat16), noise(1, n, width)], 2)


def kosmos(c):
    mask = torch.zeros(1, 16, dtype=torch.int64)
    mask[:, 2 : 2 + c.latent_query_num] = 1
    return {"input_ids": ids(), "flattened_patches": flattened(16, 768), "image_embeds_position_mask": mask}


def codebooks(c):
    return {"input_ids": ids(8), "decoder_input_ids": ids(8).expand(c.decoder.num_codebooks, 8)}


def layout(c):
    return {"input_ids": ids(), "bbox": torch.full((1, 16, 4), 7), "pixel_values": noise(1, 3, 32, 32)}


def decision(c):
    return {"input_ids": ids(), "marks": torch.tensor([[8, 16]]), "num_options": torch.tensor([[2, 2]]),
            "question_type_ids": torch.tensor([[0, 1]])}


def speech(c):
    """A prompt that holds audio latents, for a voice that continues them."""
    return {"input_ids": torch.cat([ids(8), torch.full((1, 4), c.audio_latent_token_id)], 1), "audio_latents": noise(1, 4, c.latent_dim)}


ROPE3 = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}}
EQUAL_HEADS = dict(num_key_value_heads=4)

MODELS = {
    "mamba": models.FAMILIES["mamba"],
    "mamba2": models.FAMILIES["mamba2"],
    "falcon_mamba": models.FAMILIES["falcon_mamba"],
    "bamba": models.FAMILIES["bamba"],
    "falcon_h1": models.FAMILIES["falcon_h1"],
    "granitemoehybrid": models.FAMILIES["granitemoehybrid"],
    "nemotron_h": models.FAMILIES["nemotron_h"],
    "zamba2": models.FAMILIES["zamba2"],
    "gemma3n_text": models.FAMILIES["gemma3n_text"],
    "longt5": models.FAMILIES["longt5"],
    "switch_transformers": models.FAMILIES["switch_transformers"],
    "siglip": models.FAMILIES["siglip"],
    "gemma3": models.FAMILIES["gemma3"],
    "aya_vision": models.FAMILIES["aya_vision"],
    "cohere2_vision": models.FAMILIES["cohere2_vision"],
    "wavlm": models.FAMILIES["wavlm"],
    "wavlm-xvector": Family("WavLMForXVector", waveform, type="wavlm", **XVECTOR),
    "wav2vec2-xvector": Family("Wav2Vec2ForXVector", waveform, type="wav2vec2", **XVECTOR),
    "wav2vec2-pretraining": Family("Wav2Vec2ForPreTraining", waveform, type="wav2vec2", **PRETRAINING),
    "wav2vec2-conformer": Family("Wav2Vec2ConformerForXVector", waveform, **XVECTOR),
    "wav2vec2-conformer-pretraining": Family("Wav2Vec2ConformerForPreTraining", waveform, type="wav2vec2-conformer", **PRETRAINING),
    "wav2vec2-bert": Family("Wav2Vec2BertForXVector", lambda c: {"input_features": noise(1, 64, 160)},
                            **{k: v for k, v in XVECTOR.items() if k.startswith(("tdnn", "xvector"))}),
    "data2vec-audio": Family("Data2VecAudioForXVector", waveform, **XVECTOR),
    "unispeech": Family("UniSpeechForPreTraining", waveform, **PRETRAINING),
    "unispeech-sat": Family("UniSpeechSatForXVector", waveform, **XVECTOR),
    "mobilebert": Family("MobileBertForMaskedLM", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    "reformer": Family("ReformerForMaskedLM", is_decoder=False, attn_layers=["local", "lsh"], axial_pos_embds=False, num_buckets=4,
                       attention_head_size=16, feed_forward_size=128, local_attn_chunk_length=8, lsh_attn_chunk_length=8),
    "longcat_flash": Family("LongcatFlashForCausalLM", n_routed_experts=4, zero_expert_num=2, moe_topk=2, num_key_value_heads=4, head_dim=16),
    "hy_v4": Family("HYV4ForCausalLM", index_head_dim=32, index_n_heads=4, index_topk=4),
    "dots3_note_text": Family("Dots3NoteForCausalLM", index_head_dim=32, index_n_heads=4, index_topk=4, **EQUAL_HEADS),
    "dots3_note": Family("Dots3NoteForConditionalGeneration", sub={"text_config": dict(index_head_dim=32, index_n_heads=4, index_topk=4, **EQUAL_HEADS)},
                         **EQUAL_HEADS),
    "glm5_next_text": Family("Glm5NextTextModel", index_head_dim=32, index_n_heads=4, index_topk=4, **EQUAL_HEADS),
    "glm5_next": Family("Glm5NextForConditionalGeneration", sub={"text_config": dict(index_head_dim=32, index_n_heads=4, index_topk=4, **EQUAL_HEADS)}),
    "siglip_vision_model": Family("SiglipVisionModel", "image"),
    "siglip2_vision_model": Family("Siglip2VisionModel", siglip2),
    "siglip2": Family("Siglip2Model", lambda c: {"input_ids": ids(8), **siglip2(c)}),
    "lfm2_vl": Family("Lfm2VlForConditionalGeneration", lambda c: {"input_ids": image_tokens(c, 4), **siglip2(c)}, image_token_id=251,
                      sub={"text_config": {"layer_types": ["conv", "full_attention"]}}),
    "cosmos3_edge_vision": Family("Cosmos3EdgeVisionModel", packed_patches(192), spatial_merge_size=2),
    "cosmos3_edge": Family("Cosmos3EdgeForConditionalGeneration", "text", sub={"text_config": ROPE3}),
    "muse_glimmer_vision": Family("MuseGlimmerVisionModel", packed_patches(384)),
    "muse_glimmer": Family("MuseGlimmerForConditionalGeneration", "text"),
    "muse_spark_vision": Family("MuseSparkVisionModel", packed_patches(384)),
    "muse_spark": Family("MuseSparkForConditionalGeneration", "text"),
    "ernie4_5_vl_moe_vision": Family("Ernie4_5_VLMoeVisionTransformerPretrainedModel",
                                     lambda c: {"hidden_states": noise(16, 192), "grid_thw": torch.tensor([[1, 4, 4]])}),
    "ernie4_5_vl_moe": Family("Ernie4_5_VLMoeForConditionalGeneration", "text"),
    "layoutlmv3": Family("LayoutLMv3ForTokenClassification", layout, input_size=32, coordinate_size=8, shape_size=16),
    "pix2struct_vision_model": Family("Pix2StructVisionModel", lambda c: {"flattened_patches": flattened(16, 768)}, patch_embed_hidden_size=768),
    "pix2struct_text_model": Family("Pix2StructTextModel"),
    "pix2struct": Family("Pix2StructForConditionalGeneration", lambda c: {"flattened_patches": flattened(16, 768), "decoder_input_ids": ids(8)}),
    "kosmos-2.5": Family("Kosmos2_5ForConditionalGeneration", kosmos, latent_query_num=4),
    "musicgen": Family("MusicgenForConditionalGeneration", codebooks),
    "musicgen_melody": Family("MusicgenMelodyForConditionalGeneration", codebooks),
    "blip-2": Family("Blip2ForImageTextRetrieval", text_and_pixels(8), num_query_tokens=4, image_token_index=251,
                     sub={"qformer_config": {"use_qformer_text_input": True}}),
    "colpali": Family("ColPaliForRetrieval"),
    "colqwen2": Family("ColQwen2ForRetrieval"),
    "colmodernvbert": Family("ColModernVBertForRetrieval"),
    "granite_speech5_ctc": Family("GraniteSpeech5ForCTC", lambda c: {"input_features": noise(1, 64, 4 * c.encoder_config.num_mel_bins)}),
    "granite_speech5_encoder": Family("GraniteSpeech5Encoder", lambda c: {"input_features": noise(1, 64, 4 * c.num_mel_bins)}, num_key_value_heads=4),
    "jev": Family("JevForDecision", decision, hidden_size=64, num_verbalizers=24, offsets={"noul": 0, "score": 2, "choice": 8},
                  sub={"text_config": models.MIXED}),
    "pocket_tts": Family("PocketTTSForConditionalGeneration", speech, vocab_size=4004, sub={"flow_head_config": {"condition_dim": 64, "hidden_size": 32}}),
    "gradium_phonon_tts": Family("GradiumPhononTTSForConditionalGeneration", speech, sub={"flow_head_config": {"condition_dim": 64, "hidden_size": 32}}),
    "nemo_speechlm": Family("Nemotron3_5TranscribeForConditionalGeneration", "text"),
    "nemotron_h_omni": Family("NemotronH_Omni_Reasoning_V3", "text", sub={"vision_config": {"video_temporal_patch_size": 2}}),
    "esmfold2": Family("EsmFold2Model", num_key_value_heads=4),
    "videomae": Family("VideoMAEForVideoClassification", lambda c: {"pixel_values": noise(1, c.num_frames, 3, 32, 32)}),
    "aria": Family("AriaForConditionalGeneration"),
    "bridgetower": Family("BridgeTowerModel", lambda c: {"input_ids": ids(8), "pixel_values": noise(1, 3, 32, 32)}),
    "deepseek_vl": Family("DeepseekVLForConditionalGeneration"),
    "deepseek_vl_hybrid": Family("DeepseekVLHybridForConditionalGeneration"),
    "fuyu": Family("FuyuForCausalLM"),
    "mask2former": Family("Mask2FormerForUniversalSegmentation", lambda c: {"pixel_values": noise(1, 3, 64, 64)}),
    "oneformer": Family("OneFormerForUniversalSegmentation", lambda c: {"pixel_values": noise(1, 3, 64, 64), "task_inputs": ids(8)}),
    "phi4_multimodal": Family("Phi4MultimodalForCausalLM"),
    "shieldgemma2": Family("ShieldGemma2ForImageClassification", lambda c: {"input_ids": ids(8)}),
}


def types_of(config):
    own = {config.model_type}
    for key in getattr(config, "sub_configs", {}):
        if getattr(config, key, None) is not None:
            own |= types_of(getattr(config, key))
    return own


def failing(f, out):
    try:
        return f()
    except Exception as e:
        out["fails"] = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        return None


def make(name, out):
    model = models.model_of(name)
    y = families.forward(name, model)
    if not torch.isfinite(y.float()).all():
        raise ValueError("the source's output is not finite")
    model.save_pretrained(out)
    return sorted(types_of(model.config))


def run(name, path):
    model, keys = common.load(name, path, dtype="auto")
    if any(keys.values()):
        raise ValueError(f"keys: {keys}")
    torch.manual_seed(1)  # some pretraining heads draw
    return families.forward(name, model)


def handle(case):
    if case.get("list"):
        return {"error": "", "models": list(MODELS)}
    name, out = case["model"], {"error": ""}
    models.FAMILIES[name] = MODELS[name]
    cls = models.class_of(name)
    if cls is None:
        return {"error": "", "absent": "no class " + MODELS[name].cls}
    common.AUTO[name] = cls
    if "out" in case:
        out["types"] = failing(lambda: make(name, case["out"]), out) or []
        return out
    y = failing(lambda: run(name, case["converted"]), out)
    if y is not None:
        out["finite"] = bool(torch.isfinite(y.float()).all())
    else:
        of_source = {}
        failing(lambda: run(name, case["source"]), of_source)
        out["source_fails"] = of_source.get("fails", "")
    return out


if __name__ == "__main__":
    common.serve(handle)
