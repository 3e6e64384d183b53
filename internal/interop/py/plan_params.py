"""Parameter counts of public model shapes, as transformers builds them.

Writes a JSON list of {name, config, class, params, quantized}: the config.json the
hub would hold, the class it is built as, num_parameters() of that class on the meta
device, and how many of them sit in the modules that transformers' own
replace_with_bnb_linear turns into Linear4bit. No weight is made and no network is used.

    python plan_params.py OUT.json            (transformers 5.23.0, torch 2.15.0)
    python plan_params.py --builtin OUT.json  (the same shapes as internal/modelshape/builtin.json)
    python plan_params.py --groups NAME       (the tensors of one entry, for debugging)
"""

import json
import os
import re
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import CONFIG_MAPPING, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

transformers.logging.set_verbosity_error()

Q = 151936


def llama(h, i, n, heads, kv, vocab, tied=False, **kw):
    return dict(hidden_size=h, intermediate_size=i, num_hidden_layers=n, num_attention_heads=heads,
                num_key_value_heads=kv, vocab_size=vocab, tie_word_embeddings=tied, **kw)


# name, model_type, class, what differs from the class defaults.
MODELS = [
    ("llama-2-7b", "llama", "LlamaForCausalLM", llama(4096, 11008, 32, 32, 32, 32000)),
    ("llama-2-13b", "llama", "LlamaForCausalLM", llama(5120, 13824, 40, 40, 40, 32000)),
    ("llama-2-70b", "llama", "LlamaForCausalLM", llama(8192, 28672, 80, 64, 8, 32000)),
    ("llama-1-65b", "llama", "LlamaForCausalLM", llama(8192, 22016, 80, 64, 64, 32000)),
    ("llama-3.1-8b", "llama", "LlamaForCausalLM", llama(4096, 14336, 32, 32, 8, 128256)),
    ("llama-3.1-70b", "llama", "LlamaForCausalLM", llama(8192, 28672, 80, 64, 8, 128256)),
    ("llama-3.1-405b", "llama", "LlamaForCausalLM", llama(16384, 53248, 126, 128, 8, 128256)),
    ("llama-3.2-1b", "llama", "LlamaForCausalLM", llama(2048, 8192, 16, 32, 8, 128256, True, head_dim=64)),
    ("llama-3.2-3b", "llama", "LlamaForCausalLM", llama(3072, 8192, 28, 24, 8, 128256, True, head_dim=128)),
    ("tinyllama-1.1b", "llama", "LlamaForCausalLM", llama(2048, 5632, 22, 32, 4, 32000)),
    ("smollm2-1.7b", "llama", "LlamaForCausalLM", llama(2048, 8192, 24, 32, 32, 49152, True)),
    ("smollm2-135m", "llama", "LlamaForCausalLM", llama(576, 1536, 30, 9, 3, 49152, True)),
    ("deepseek-coder-1.3b", "llama", "LlamaForCausalLM", llama(2048, 5504, 24, 16, 16, 32256)),
    ("yi-34b", "llama", "LlamaForCausalLM", llama(7168, 20480, 60, 56, 8, 64000)),
    ("mistral-7b-v0.1", "mistral", "MistralForCausalLM", llama(4096, 14336, 32, 32, 8, 32000)),
    ("mistral-7b-v0.3", "mistral", "MistralForCausalLM", llama(4096, 14336, 32, 32, 8, 32768, sliding_window=None)),
    ("mistral-nemo-12b", "mistral", "MistralForCausalLM", llama(5120, 14336, 40, 32, 8, 131072, head_dim=128, sliding_window=None)),
    ("mistral-small-24b", "mistral", "MistralForCausalLM", llama(5120, 32768, 40, 32, 8, 131072, head_dim=128, sliding_window=None)),
    ("qwen2.5-0.5b", "qwen2", "Qwen2ForCausalLM", llama(896, 4864, 24, 14, 2, Q, True)),
    ("qwen2.5-1.5b", "qwen2", "Qwen2ForCausalLM", llama(1536, 8960, 28, 12, 2, Q, True)),
    ("qwen2.5-3b", "qwen2", "Qwen2ForCausalLM", llama(2048, 11008, 36, 16, 2, Q, True)),
    ("qwen2.5-7b", "qwen2", "Qwen2ForCausalLM", llama(3584, 18944, 28, 28, 4, 152064)),
    ("qwen2.5-14b", "qwen2", "Qwen2ForCausalLM", llama(5120, 13824, 48, 40, 8, 152064)),
    ("qwen2.5-32b", "qwen2", "Qwen2ForCausalLM", llama(5120, 27648, 64, 40, 8, 152064)),
    ("qwen2.5-72b", "qwen2", "Qwen2ForCausalLM", llama(8192, 29568, 80, 64, 8, 152064)),
    ("qwen3-0.6b", "qwen3", "Qwen3ForCausalLM", llama(1024, 3072, 28, 16, 8, Q, True, head_dim=128)),
    ("qwen3-1.7b", "qwen3", "Qwen3ForCausalLM", llama(2048, 6144, 28, 16, 8, Q, True, head_dim=128)),
    ("qwen3-4b", "qwen3", "Qwen3ForCausalLM", llama(2560, 9728, 36, 32, 8, Q, True, head_dim=128)),
    ("qwen3-8b", "qwen3", "Qwen3ForCausalLM", llama(4096, 12288, 36, 32, 8, Q, head_dim=128)),
    ("qwen3-14b", "qwen3", "Qwen3ForCausalLM", llama(5120, 17408, 40, 40, 8, Q, head_dim=128)),
    ("qwen3-32b", "qwen3", "Qwen3ForCausalLM", llama(5120, 25600, 64, 64, 8, Q, head_dim=128)),
    ("qwen3-30b-a3b", "qwen3_moe", "Qwen3MoeForCausalLM",
     llama(2048, 6144, 48, 32, 4, Q, head_dim=128, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8)),
    ("qwen3-235b-a22b", "qwen3_moe", "Qwen3MoeForCausalLM",
     llama(4096, 12288, 94, 64, 4, Q, head_dim=128, moe_intermediate_size=1536, num_experts=128, num_experts_per_tok=8)),
    ("qwen2-moe-default", "qwen2_moe", "Qwen2MoeForCausalLM", {}),
    ("qwen3-next-80b-a3b", "qwen3_next", "Qwen3NextForCausalLM", {}),
    ("qwen3.5-text-default", "qwen3_5_text", "Qwen3_5ForCausalLM", {}),
    ("mixtral-8x7b", "mixtral", "MixtralForCausalLM", llama(4096, 14336, 32, 32, 8, 32000)),
    ("mixtral-8x22b", "mixtral", "MixtralForCausalLM", llama(6144, 16384, 56, 48, 8, 32768)),
    ("olmoe-1b-7b", "olmoe", "OlmoeForCausalLM", llama(2048, 1024, 16, 16, 16, 50304)),
    ("deepseek-v2-default", "deepseek_v2", "DeepseekV2ForCausalLM", {}),
    ("deepseek-v3", "deepseek_v3", "DeepseekV3ForCausalLM", {}),
    ("gpt-oss-20b", "gpt_oss", "GptOssForCausalLM", dict(num_hidden_layers=24, num_local_experts=32)),
    ("gpt-oss-120b", "gpt_oss", "GptOssForCausalLM", {}),
    ("phi-3.5-moe", "phimoe", "PhimoeForCausalLM", {}),
    ("granitemoe-default", "granitemoe", "GraniteMoeForCausalLM", {}),
    ("glm-4.5-air", "glm4_moe", "Glm4MoeForCausalLM", {}),
    ("ernie-4.5-21b-a3b", "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", {}),
    ("llama-4-scout-text", "llama4_text", "Llama4ForCausalLM", {}),
    ("minimax-default", "minimax", "MiniMaxForCausalLM", {}),
    ("gemma-2b", "gemma", "GemmaForCausalLM", llama(2048, 16384, 18, 8, 1, 256000, True, head_dim=256)),
    ("gemma-7b", "gemma", "GemmaForCausalLM", llama(3072, 24576, 28, 16, 16, 256000, True, head_dim=256)),
    ("gemma-2-2b", "gemma2", "Gemma2ForCausalLM", llama(2304, 9216, 26, 8, 4, 256000, True, head_dim=256)),
    ("gemma-2-9b", "gemma2", "Gemma2ForCausalLM", llama(3584, 14336, 42, 16, 8, 256000, True, head_dim=256)),
    ("gemma-2-27b", "gemma2", "Gemma2ForCausalLM", llama(4608, 36864, 46, 32, 16, 256000, True, head_dim=128)),
    ("gemma-3-1b", "gemma3_text", "Gemma3ForCausalLM", llama(1152, 6912, 26, 4, 1, 262144, True, head_dim=256)),
    ("gemma-3-4b", "gemma3", "Gemma3ForConditionalGeneration",
     dict(text_config=dict(llama(2560, 10240, 34, 8, 4, 262208, True, head_dim=256), model_type="gemma3_text"),
          vision_config=dict(model_type="siglip_vision_model", hidden_size=1152, intermediate_size=4304,
                             num_attention_heads=16, num_hidden_layers=27, patch_size=14, image_size=896))),
    ("phi-2", "phi", "PhiForCausalLM", dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32, vocab_size=51200)),
    ("phi-3-mini", "phi3", "Phi3ForCausalLM", {}),
    ("phi-3-medium", "phi3", "Phi3ForCausalLM", llama(5120, 17920, 40, 40, 10, 32064)),
    ("phi-4", "phi3", "Phi3ForCausalLM", llama(5120, 17920, 40, 40, 10, 100352)),
    ("stablelm-3b", "stablelm", "StableLmForCausalLM", {}),
    ("starcoder2-3b", "starcoder2", "Starcoder2ForCausalLM", {}),
    ("starcoder-15b", "gpt_bigcode", "GPTBigCodeForCausalLM", dict(n_embd=6144, n_inner=24576, n_layer=40, n_head=48, n_positions=8192, vocab_size=49152, multi_query=True)),
    ("olmo-7b", "olmo", "OlmoForCausalLM", {}),
    ("olmo-2-7b", "olmo2", "Olmo2ForCausalLM", dict(vocab_size=100352)),
    ("olmo-3-7b", "olmo3", "Olmo3ForCausalLM", dict(vocab_size=100278)),
    ("granite-default", "granite", "GraniteForCausalLM", {}),
    ("command-r-default", "cohere", "CohereForCausalLM", {}),
    ("command-r7b", "cohere2", "Cohere2ForCausalLM", dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)),
    ("glm-4-9b", "glm", "GlmForCausalLM", {}),
    ("glm-4-0414-9b", "glm4", "Glm4ForCausalLM", {}),
    ("smollm3-3b", "smollm3", "SmolLM3ForCausalLM", {}),
    ("exaone4-default", "exaone4", "Exaone4ForCausalLM", {}),
    ("helium-2b", "helium", "HeliumForCausalLM", {}),
    ("ernie-4.5-0.3b", "ernie4_5", "Ernie4_5ForCausalLM", {}),
    ("seed-oss-default", "seed_oss", "SeedOssForCausalLM", {}),
    ("arcee-default", "arcee", "ArceeForCausalLM", {}),
    ("apertus-default", "apertus", "ApertusForCausalLM", {}),
    ("gpt2", "gpt2", "GPT2LMHeadModel", {}),
    ("gpt2-medium", "gpt2", "GPT2LMHeadModel", dict(n_embd=1024, n_layer=24, n_head=16)),
    ("gpt2-xl", "gpt2", "GPT2LMHeadModel", dict(n_embd=1600, n_layer=48, n_head=25)),
    ("gpt-neo-1.3b", "gpt_neo", "GPTNeoForCausalLM", {}),
    ("gpt-j-6b", "gptj", "GPTJForCausalLM", {}),
    ("gpt-neox-20b", "gpt_neox", "GPTNeoXForCausalLM", {}),
    ("pythia-1.4b", "gpt_neox", "GPTNeoXForCausalLM", dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=16, vocab_size=50304)),
    ("opt-125m", "opt", "OPTForCausalLM", {}),
    ("opt-350m", "opt", "OPTForCausalLM", dict(hidden_size=1024, ffn_dim=4096, num_hidden_layers=24, num_attention_heads=16, word_embed_proj_dim=512, do_layer_norm_before=False)),
    ("opt-1.3b", "opt", "OPTForCausalLM", dict(hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32, word_embed_proj_dim=2048)),
    ("opt-2.7b", "opt", "OPTForCausalLM", dict(hidden_size=2560, ffn_dim=10240, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=2560)),
    ("opt-6.7b", "opt", "OPTForCausalLM", dict(hidden_size=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=4096)),
    ("opt-13b", "opt", "OPTForCausalLM", dict(hidden_size=5120, ffn_dim=20480, num_hidden_layers=40, num_attention_heads=40, word_embed_proj_dim=5120)),
    ("opt-30b", "opt", "OPTForCausalLM", dict(hidden_size=7168, ffn_dim=28672, num_hidden_layers=48, num_attention_heads=56, word_embed_proj_dim=7168)),
    ("opt-66b", "opt", "OPTForCausalLM", dict(hidden_size=9216, ffn_dim=36864, num_hidden_layers=64, num_attention_heads=72, word_embed_proj_dim=9216)),
    ("opt-175b", "opt", "OPTForCausalLM", dict(hidden_size=12288, ffn_dim=49152, num_hidden_layers=96, num_attention_heads=96, word_embed_proj_dim=12288)),
    # GPT-3 175B, Brown et al. 2020, table 2.1, with separate projections.
    ("gpt-3-175b", "opt", "OPTForCausalLM", dict(hidden_size=12288, ffn_dim=49152, num_hidden_layers=96, num_attention_heads=96, word_embed_proj_dim=12288, vocab_size=50257)),
    ("bloom-560m", "bloom", "BloomForCausalLM", dict(hidden_size=1024, n_layer=24, n_head=16, vocab_size=250880)),
    ("bloom-7b1", "bloom", "BloomForCausalLM", dict(hidden_size=4096, n_layer=30, n_head=32, vocab_size=250880)),
    ("falcon-7b", "falcon", "FalconForCausalLM", dict(hidden_size=4544, num_hidden_layers=32, num_attention_heads=71, vocab_size=65024, multi_query=True, parallel_attn=True)),
    ("falcon-40b", "falcon", "FalconForCausalLM", dict(hidden_size=8192, num_hidden_layers=60, num_attention_heads=128, num_kv_heads=8, new_decoder_architecture=True, vocab_size=65024)),
    ("mpt-7b", "mpt", "MptForCausalLM", dict(d_model=4096, n_heads=32, n_layers=32, vocab_size=50432)),
    ("biogpt", "biogpt", "BioGptForCausalLM", {}),
    ("bert-base", "bert", "BertForMaskedLM", {}),
    ("bert-large", "bert", "BertModel", dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)),
    ("all-minilm-l6-v2", "bert", "BertModel", dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)),
    ("roberta-base", "roberta", "RobertaForMaskedLM", dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)),
    ("xlm-roberta-base", "xlm-roberta", "XLMRobertaForMaskedLM", dict(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1)),
    ("distilbert-base", "distilbert", "DistilBertForMaskedLM", {}),
    ("electra-small", "electra", "ElectraModel", {}),
    ("deberta-v3-base", "deberta-v2", "DebertaV2Model",
     dict(vocab_size=128100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, type_vocab_size=0,
          relative_attention=True, max_relative_positions=-1, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
          pos_att_type=["p2c", "c2p"], position_biased_input=False)),
    ("modernbert-base", "modernbert", "ModernBertForMaskedLM", {}),
    ("mpnet-base", "mpnet", "MPNetForMaskedLM", {}),
    ("t5-small", "t5", "T5ForConditionalGeneration", {}),
    ("t5-base", "t5", "T5ForConditionalGeneration", dict(d_model=768, d_ff=3072, num_layers=12, num_heads=12)),
    ("flan-t5-xl", "t5", "T5ForConditionalGeneration",
     dict(d_model=2048, d_ff=5120, num_layers=24, num_decoder_layers=24, num_heads=32, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    ("mt5-small", "mt5", "MT5ForConditionalGeneration", dict(vocab_size=250112, tie_word_embeddings=False)),
    ("bart-large", "bart", "BartForConditionalGeneration", {}),
    ("mbart-large-50", "mbart", "MBartForConditionalGeneration", dict(vocab_size=250054)),
    ("pegasus-large", "pegasus", "PegasusForConditionalGeneration", dict(vocab_size=96103, encoder_layers=16, decoder_layers=16)),
    ("m2m100-418m", "m2m_100", "M2M100ForConditionalGeneration", {}),
    ("marian-default", "marian", "MarianMTModel", {}),
    ("whisper-tiny", "whisper", "WhisperForConditionalGeneration", {}),
    ("whisper-large-v3", "whisper", "WhisperForConditionalGeneration",
     dict(d_model=1280, encoder_layers=32, decoder_layers=32, encoder_attention_heads=20, decoder_attention_heads=20,
          encoder_ffn_dim=5120, decoder_ffn_dim=5120, num_mel_bins=128, vocab_size=51866)),
    ("llava-1.5-7b", "llava", "LlavaForConditionalGeneration",
     dict(text_config=dict(llama(4096, 11008, 32, 32, 32, 32064), model_type="llama"),
          vision_config=dict(model_type="clip_vision_model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                             num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768, vocab_size=32000))),
    ("qwen2-vl-7b", "qwen2_vl", "Qwen2VLForConditionalGeneration",
     dict(text_config=dict(llama(3584, 18944, 28, 28, 4, 152064), model_type="qwen2_vl_text"),
          vision_config=dict(model_type="qwen2_vl_vision", hidden_size=3584, embed_dim=1280, depth=32, mlp_ratio=4, num_heads=16))),
    ("qwen2.5-vl-7b", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration",
     dict(text_config=dict(llama(3584, 18944, 28, 28, 4, 152064), model_type="qwen2_5_vl_text"),
          vision_config=dict(model_type="qwen2_5_vl_vision", hidden_size=1280, out_hidden_size=3584, depth=32, intermediate_size=3420, num_heads=16))),
    ("qwen3-vl-default", "qwen3_vl", "Qwen3VLForConditionalGeneration", {}),
    ("paligemma-3b", "paligemma", "PaliGemmaForConditionalGeneration",
     dict(text_config=dict(llama(2048, 16384, 18, 8, 1, 257216, True, head_dim=256), model_type="gemma"),
          vision_config=dict(model_type="siglip_vision_model", hidden_size=1152, intermediate_size=4304, num_attention_heads=16,
                             num_hidden_layers=27, patch_size=14, image_size=224), projection_dim=2048)),
    ("idefics3-8b", "idefics3", "Idefics3ForConditionalGeneration", {}),
    ("mistral3-24b", "mistral3", "Mistral3ForConditionalGeneration", {}),
    ("internvl-default", "internvl", "InternVLForConditionalGeneration", {}),
    ("vit-base", "vit", "ViTModel", {}),
    ("clip-vit-b32", "clip", "CLIPModel", {}),
    ("siglip-base", "siglip", "SiglipModel", {}),
    ("dinov2-base", "dinov2", "Dinov2Model", {}),
]


def build(entry):
    name, model_type, cls, over = entry
    cfg = CONFIG_MAPPING[model_type](**json.loads(json.dumps(over)))
    cfg.architectures = [cls]
    with torch.device("meta"):
        model = getattr(transformers, cls)(cfg)
    return cfg, model


def quantized(model):
    qc = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    q = Bnb4BitHfQuantizer(qc, pre_quantized=False)
    skip = q.get_modules_to_not_convert(model, None, getattr(model, "_keep_in_fp32_modules", None))
    before = {n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"}
    model = replace_with_bnb_linear(model, modules_to_not_convert=skip, quantization_config=qc, pre_quantized=False)
    names = [n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"]
    return sum(before[n] for n in names), names


def groups(model):
    out = {}
    for n, p in model.named_parameters():
        k = (re.sub(r"\d+", "*", n), tuple(p.shape))
        out[k] = out.get(k, 0) + 1
    return out


def main():
    if sys.argv[1] == "--groups":
        for e in MODELS:
            if e[0] == sys.argv[2]:
                cfg, m = build(e)
                print(cfg.to_json_string())
                for (n, s), c in groups(m).items():
                    print(c, n, list(s))
                total, names = quantized(m)
                print("quantized", total, sorted({re.sub(r"\d+", "*", n) for n in names}))
        return
    if sys.argv[1] == "--builtin":
        with open(sys.argv[2], "w") as f:
            rows = (f" {json.dumps(n)}: {json.dumps(dict(model_type=t, architectures=[c], **over))}" for n, t, c, over in MODELS if "default" not in n)
            f.write("{\n" + ",\n".join(rows) + "\n}\n")
        return
    rows = []
    for e in MODELS:
        cfg, m = build(e)
        n = m.num_parameters()
        q, _ = quantized(m)
        rows.append(dict(name=e[0], **{"class": e[2]}, params=n, quantized=q, config=json.loads(cfg.to_json_string(use_diff=True))))
        print(e[0], n, q, file=sys.stderr, flush=True)
    with open(sys.argv[1], "w") as f:
        json.dump(dict(made_by="internal/interop/py/plan_params.py", transformers=transformers.__version__, torch=torch.__version__, models=rows), f, indent=1)
        f.write("\n")


main()
