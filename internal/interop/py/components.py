"""Models of diffusers: writes small ones, and compares converted ones with what bitsandbytes makes of the same sources.

A case with "list": the answer has the "names" of MODELS. A case {"model", "out"} writes one in float32. A case {"model", "source",
"converted": directories} loads both; the answer is like compare.py's, with "output_equal" for a forward pass.

diffusers asks for a GPU before it quantizes, and for nothing that needs one; these two questions are left out here.
"""

import os

import common  # sets up the environment before anything else is imported
import compare
import diffusers
import safetensors.torch
import torch
from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer

diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()
BnB4BitDiffusersQuantizer.validate_environment = lambda self, *args, **kwargs: None
BnB4BitDiffusersQuantizer.update_device_map = lambda self, device_map: {"": "cpu"}


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).bfloat16()


def step(dtype=torch.int64):
    return torch.tensor([7]).to(dtype)


TINY_UNET = {"block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 16, "norm_num_groups": 8, "attention_head_dim": 8,
             "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "cross_attention_dim": 32}
TINY_UP = {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}
SDXL = {"use_linear_projection": True, "transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80}
UNET_INPUTS = {"sample": lambda: rand(1, 4, 16, 16), "timestep": step, "encoder_hidden_states": lambda: rand(1, 5, 32)}
SDXL_INPUTS = {**UNET_INPUTS, "added_cond_kwargs": lambda: {"text_embeds": rand(1, 32), "time_ids": rand(1, 6)}}
FLUX_INPUTS = {"hidden_states": lambda: rand(1, 16, 4), "encoder_hidden_states": lambda: rand(1, 6, 32), "timestep": lambda: rand(1),
               "img_ids": lambda: torch.zeros(16, 3), "txt_ids": lambda: torch.zeros(6, 3)}

# name: class, its arguments, its inputs.
MODELS = {
    "auraflow": ("AuraFlowTransformer2DModel", {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32, "out_channels": 4, "pos_embed_max_size": 256},
        {"hidden_states": lambda: rand(1, 4, 16, 16), "encoder_hidden_states": lambda: rand(1, 6, 32), "timestep": lambda: rand(1)}),
    "autoencoder-kl": ("AutoencoderKL", {
        "block_out_channels": [32, 64], "down_block_types": 2 * ["DownEncoderBlock2D"], "up_block_types": 2 * ["UpDecoderBlock2D"], "norm_num_groups": 8},
        {"sample": lambda: rand(1, 3, 16, 16)}),
    "cogvideox": ("CogVideoXTransformer3DModel", {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 32, "num_layers": 2,
        "sample_width": 8, "sample_height": 8, "sample_frames": 8, "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 8},
        {"hidden_states": lambda: rand(1, 2, 4, 8, 8), "encoder_hidden_states": lambda: rand(1, 8, 32), "timestep": step}),
    "controlnet": ("ControlNetModel", {**{k: v for k, v in TINY_UNET.items() if k != "sample_size"}, "conditioning_embedding_out_channels": [16, 32]},
        {**UNET_INPUTS, "controlnet_cond": lambda: rand(1, 3, 32, 32)}),
    "dit": ("DiTTransformer2DModel", {
        "in_channels": 4, "out_channels": 8, "sample_size": 8, "patch_size": 2, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2,
        "attention_bias": True, "num_embeds_ada_norm": 8, "norm_elementwise_affine": False},
        {"hidden_states": lambda: rand(1, 4, 8, 8), "timestep": step, "class_labels": lambda: torch.tensor([3])}),
    "flux": ("FluxTransformer2DModel", {
        "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
        "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8], "guidance_embeds": True},
        {**FLUX_INPUTS, "pooled_projections": lambda: rand(1, 32), "guidance": lambda: rand(1)}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 1,
        "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True, "text_embed_dim": 16, "pooled_projection_dim": 8,
        "rope_axes_dim": [2, 4, 10]},
        {"hidden_states": lambda: rand(1, 4, 1, 8, 8), "timestep": step, "encoder_hidden_states": lambda: rand(1, 6, 16),
         "pooled_projections": lambda: rand(1, 8), "encoder_attention_mask": lambda: torch.ones(1, 6), "guidance": lambda: rand(1)}),
    "ltx-video": ("LTXVideoTransformer3DModel", {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32, "num_layers": 2,
        "caption_channels": 32},
        {"hidden_states": lambda: rand(1, 32, 4), "encoder_hidden_states": lambda: rand(1, 6, 32), "timestep": step,
         "encoder_attention_mask": lambda: torch.ones(1, 6), "num_frames": lambda: 2, "height": lambda: 4, "width": lambda: 4}),
    "lumina2": ("Lumina2Transformer2DModel", {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 3,
        "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": [4, 2, 2], "axes_lens": [32, 32, 32], "cap_feat_dim": 8},
        {"hidden_states": lambda: rand(1, 4, 16, 16), "encoder_hidden_states": lambda: rand(1, 6, 8), "timestep": lambda: rand(1),
         "encoder_attention_mask": lambda: torch.ones(1, 6, dtype=torch.bool)}),
    "mochi": ("MochiTransformer3DModel", {
        "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 12,
        "time_embed_dim": 4, "text_embed_dim": 16, "max_sequence_length": 16},
        {"hidden_states": lambda: rand(1, 12, 2, 8, 8), "encoder_hidden_states": lambda: rand(1, 16, 16), "timestep": step,
         "encoder_attention_mask": lambda: torch.ones(1, 16, dtype=torch.bool)}),
    "pixart": ("PixArtTransformer2DModel", {
        "sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 4, "in_channels": 4, "cross_attention_dim": 32,
        "caption_channels": 16, "use_additional_conditions": False},
        {"hidden_states": lambda: rand(1, 4, 8, 8), "timestep": step, "encoder_hidden_states": lambda: rand(1, 6, 16),
         "added_cond_kwargs": lambda: {"aspect_ratio": None, "resolution": None}}),
    "prior": ("PriorTransformer", {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "embedding_dim": 8, "num_embeddings": 7},
        {"hidden_states": lambda: rand(1, 8), "timestep": step, "proj_embedding": lambda: rand(1, 8), "encoder_hidden_states": lambda: rand(1, 7, 8)}),
    "qwen-image": ("QwenImageTransformer2DModel", {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3,
        "joint_attention_dim": 16, "axes_dims_rope": [8, 4, 4]},
        {"hidden_states": lambda: rand(1, 16, 16), "encoder_hidden_states": lambda: rand(1, 7, 16), "timestep": lambda: rand(1),
         "encoder_hidden_states_mask": lambda: torch.ones(1, 7, dtype=torch.int64), "img_shapes": lambda: [[(1, 4, 4)]]}),
    "sana": ("SanaTransformer2DModel", {
        "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": 8, "sample_size": 8},
        {"hidden_states": lambda: rand(1, 4, 8, 8), "encoder_hidden_states": lambda: rand(1, 6, 8), "timestep": step}),
    "sd3": ("SD3Transformer2DModel", {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 4,
        "caption_projection_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 64, "out_channels": 4, "pos_embed_max_size": 96,
        "dual_attention_layers": [0], "qk_norm": "rms_norm"},
        {"hidden_states": lambda: rand(1, 4, 16, 16), "encoder_hidden_states": lambda: rand(1, 6, 32), "pooled_projections": lambda: rand(1, 64),
         "timestep": step}),
    "unet": ("UNet2DConditionModel", {**TINY_UNET, **TINY_UP}, UNET_INPUTS),
    "unet-linear": ("UNet2DConditionModel", {**TINY_UNET, **TINY_UP, **SDXL}, SDXL_INPUTS),
    "wan": ("WanTransformer3DModel", {
        "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
        "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32},
        {"hidden_states": lambda: rand(1, 4, 2, 16, 16), "timestep": step, "encoder_hidden_states": lambda: rand(1, 6, 16)}),
}
MODELS["unet-old"] = ("UNet2DModel", {
    "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 16, "norm_num_groups": 8, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}, {"sample": lambda: rand(1, 3, 16, 16), "timestep": step})

# What attention blocks called their projections before diffusers 0.13; written to the sources of models called "-old".
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def rename(path):
    tensors = safetensors.torch.load_file(path)
    for new, old in OLD_NAMES.items():
        tensors = {k.replace(new, old): v for k, v in tensors.items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def load(model, path, **kwargs):
    cls = getattr(diffusers, MODELS[model][0])
    loaded, keys = cls.from_pretrained(path, torch_dtype=torch.bfloat16, output_loading_info=True, local_files_only=True, **kwargs)
    return loaded.eval(), {k: sorted(str(x) for x in keys[k + "_keys"]) for k in ("missing", "unexpected", "mismatched")}


@torch.no_grad()
def forward(name, model):
    out = model(**{k: make() for k, make in MODELS[name][2].items()}, return_dict=False)
    while isinstance(out, (tuple, list)):
        out = out[-1]
    return out


def handle(case):
    if case.get("list"):
        return {"error": "", "names": sorted(MODELS)}
    name = case["model"]
    cls, args, _ = MODELS[name]
    if case.get("out"):
        torch.manual_seed(11)
        model = getattr(diffusers, cls)(**args)
        for p in model.parameters():
            if not p.any():  # modules that start as zero, which hide what lies before them
                torch.nn.init.normal_(p, std=0.02)
        model.save_pretrained(case["out"], max_shard_size=case["max_shard_size"])
        if name.endswith("-old"):
            rename(os.path.join(case["out"], "diffusion_pytorch_model.safetensors"))
        return {"error": ""}
    ours, keys = load(name, case["converted"])
    theirs, _ = load(name, case["source"], quantization_config=diffusers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=case["double_quant"], bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=case["skip"]))
    la, lb = common.linear4bit(ours), common.linear4bit(theirs)
    out = {"error": "", "loading": keys, "quantized": sorted(la), "reference_quantized": sorted(lb), "class": type(ours).__name__}
    out |= compare.compare_linears(la, lb)
    out["rest_differs"] = compare.compare_rest(ours, theirs, la)
    x, y = forward(name, ours), forward(name, theirs)
    out["logits_equal"] = torch.equal(x, y)
    out["logits_relative"] = common.relative(x, y)
    out["finite"] = bool(torch.isfinite(x).all())
    return out


if __name__ == "__main__":
    common.serve(handle)
