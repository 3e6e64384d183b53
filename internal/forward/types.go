package forward

import (
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// lacking is what the blocks of model types have that no description here has.
var lacking = []struct{ what, types string }{
	{"layers of state-space models", "bamba falcon_h1 falcon_mamba granitemoehybrid jamba mamba mamba2 nemotron_h zamba zamba2 zaya"},
	{"linear attention and its recurrent state", "bailing_hybrid kimi_linear kolibri1 minimax olmo_hybrid qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp_text rwkv xlstm"},
	{"recurrent layers", "recurrent_gemma hrm_text"},
	{"short convolutions", "lfm2 lfm2_moe lfm3"},
	{"multi-head latent attention", "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 mistral4 youtu"},
	{"ALiBi", "bloom mpt"},
	{"queries, keys and values in an order of their own in one matrix", "codegen falcon gpt_neox_japanese jais2 persimmon"},
	{"an activation with parameters of its own", "apertus"},
	{"layers of several streams and embeddings of each layer", "gemma3n_text gemma4_text gemma4_unified_assistant gemma4_unified_text"},
	{"chunked attention whose temperature follows the position", "llama4_text"},
	{"differential attention", "diffllama"},
	{"a mixture of attention heads", "jetmoe"},
	{"patches of bytes", "blt"},
	{"activations that are quantized", "bitnet"},
	{"routing by a threshold", "phimoe"},
	{"experts under names of their own", "dbrx granite_swa granitemoe granitemoe_swa granitemoeshared aria_text"},
	{"positions that are sines", "ctrl xglm openai-gpt transfo-xl"},
	{"the encoder that it is, with a head for language", "bert big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod git"},
	{"the encoder that its decoder attends to", "bart bigbird_pegasus blenderbot blenderbot-small blip_text_model marian mbart moshi musicgen_decoder musicgen_melody_decoder mvp pegasus plbart prophetnet speech_to_text_2 trocr whisper xlm-prophetnet mllama mllama_text_model"},
	{"attention over permutations", "xlnet xlm flaubert"},
}

// missing says what a model type would need that is not here.
func missing(typ string) string {
	for _, t := range arch.Types() {
		if t.ModelType == typ || slices.Contains(t.Aliases, typ) {
			return lackingOf(t)
		}
	}
	return "not a model type that is known here"
}

// lackingOf says it of a type of the table: by its name, or by those of its classes.
func lackingOf(t arch.TypeInfo) string {
	for _, l := range lacking {
		if slices.Contains(strings.Fields(l.types), t.ModelType) {
			return "there is none of what it has: " + l.what
		}
	}
	has := func(part string) bool {
		return slices.ContainsFunc(t.Classes, func(c string) bool { return strings.Contains(c, part) })
	}
	switch {
	case has("ForCausalLM"), has("LMHeadModel"):
		return "there is no description of its blocks"
	case has("ForConditionalGeneration"), has("Seq2Seq"):
		return "it has an encoder or towers beside its decoder; there are descriptions of decoders alone"
	}
	return "it has no class of a causal language model"
}
