//go:build interop

package interop

import (
	"strings"
	"testing"
)

// fewFamilies are the architectures that every run tests: one of each kind of layout.
var fewFamilies = []string{
	"bert", "deepseek_v3", "gemma3", "gpt2", "gpt_oss", "llama", "llama4", "llava", "mamba2", "mixtral", "phi3", "qwen2_5_vl", "qwen3_moe", "t5", "whisper",
}

// crossFamilies have experts, which either version may have saved for the other.
var crossFamilies = []string{"deepseek_v3", "gpt_oss", "llama4", "mixtral", "qwen3_moe"}

// An exception is an architecture that falls short somewhere, and why. Empty fields stand for any value.
type exception struct {
	family, saved, loaded string
	flags                 bool   // only where flags ask for the set of one version
	outcome               string // part of the row's outcome
	why                   string
}

var exceptions = []exception{
	{family: "falcon", outcome: nothing, why: "its FalconLinear is a subclass of nn.Linear, and 5.x replaces nn.Linear alone"},
	{family: "gemma3n", outcome: cannotMake, why: "its vision tower needs timm, which the environments lack; gemma3n_text has the rest"},
	{family: "gemma3n_text", saved: "t4", loaded: "t5", outcome: "nor its source, missing keys",
		why: "4.57 saves per_layer_model_projection as per_layer_model.language_model_projection"},
	{family: "gemma3n_text", saved: "t4", loaded: "t4", outcome: "in 4 bits: RuntimeError: result type Float",
		why: "4.57 clamps the packed weight of altup.correction_coefs in place"},
	{family: "mamba", loaded: "t5", outcome: "in 4 bits: RuntimeError: Expected size", why: "5.x multiplies by the packed weight of dt_proj"},
	{family: "switch_transformers", saved: "t4", loaded: "t4", outcome: "in 4 bits: RuntimeError: Index put",
		why: "4.57 casts the activations of an expert to the dtype of its packed wo; so does 5.x, where the output is equal, and nonsense"},
	{family: "wavlm", outcome: "in 4 bits: AssertionError", why: "attention hands its packed weights to F.multi_head_attention_forward"},
	{family: "qwen3_moe", saved: "t5", loaded: "t4", outcome: cannotLoad, why: "5.x writes num_local_experts to config.json, where 4.57 looks for num_experts"},
	{family: "siglip", flags: true, loaded: "t4", outcome: multiheadOutcome, why: multihead},
	{family: "paligemma", flags: true, loaded: "t4", outcome: multiheadOutcome, why: multihead},
	{family: "gemma3", flags: true, loaded: "t4", outcome: multiheadOutcome, why: multihead},
	{family: "aya_vision", flags: true, loaded: "t4", outcome: multiheadOutcome, why: multihead},
	{family: "cohere2_vision", flags: true, loaded: "t4", outcome: multiheadOutcome, why: multihead},
	{family: "zamba2", saved: "t4", outcome: cannotMake, why: "4.57 does not save its shared blocks as safetensors"},
	{family: "ctrl", saved: "t4", loaded: "t4", outcome: bf16Outcome, why: "its position encodings are float32 in 4.57"},
	{family: "deberta", loaded: "t5", outcome: bf16Outcome, why: "its attention makes float32 of bfloat16"},
	{family: "fnet", outcome: bf16Outcome, why: "torch has no Fourier transform in bfloat16"},
	{family: "xlnet", loaded: "t5", outcome: bf16Outcome, why: "its position encodings are float32 in 5.x"},
}

const (
	multiheadOutcome = "in 4 bits: RuntimeError: self and mat2"
	multihead        = "4.57 quantizes the out_proj of nn.MultiheadAttention in SigLIP's head, which then reads its packed weight; the default keeps it"
	bf16Outcome      = "nor its source in bfloat16"
)

func (e exception) matches(r familyRow) bool {
	return e.family == r.family && (e.saved == "" || e.saved == r.saved) && (e.loaded == "" || e.loaded == r.loaded) &&
		(!e.flags || r.flags != "") && strings.Contains(r.outcome, e.outcome)
}

// checkExceptions fails for outcomes short of a model that loads, matches and runs, but for the exceptions; with whole, also for
// an exception that no row needs.
func checkExceptions(t *testing.T, rows []familyRow, whole bool) {
	t.Helper()
	used := make([]bool, len(exceptions))
	for _, r := range rows {
		known := !needsException(r.outcome)
		for i, e := range exceptions {
			if needsException(r.outcome) && e.matches(r) {
				used[i], known = true, true
			}
		}
		if !known {
			t.Errorf("%s saved by %s, loaded in %s %s: %s", r.family, r.saved, r.loaded, r.flags, r.outcome)
		}
	}
	for i, e := range exceptions {
		if !used[i] && whole {
			t.Errorf("no row needs the exception of %s (%s)", e.family, e.why)
		}
	}
}
