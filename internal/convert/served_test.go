package convert

import (
	"errors"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// TestServed: what verify says that vLLM and SGLang cannot load packed, convert does not pack for them.
func TestServed(t *testing.T) {
	bert := []testTensor{bf16("bert.encoder.layer.0.output.dense.weight", 64, 64), bf16("classifier.weight", 2, 64)}
	const bertConfig = `{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}`
	llama4 := []testTensor{bf16("model.layers.0.self_attn.q_proj.weight", 64, 64), bf16("model.layers.0.feed_forward.experts.gate_up_proj", 2, 64, 128),
		bf16("model.layers.0.feed_forward.experts.down_proj", 2, 64, 64)}
	const llama4Config = `{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}`
	for _, c := range []struct {
		name, config string
		tensors      []testTensor
		target       arch.Target
		packed       int
		refused      string
	}{
		{"a head, as transformers packs it", bertConfig, bert, 0, 2, ""},
		{"a head for vLLM", bertConfig, bert, arch.VLLM, 1, ""},
		{"a head for SGLang and transformers", bertConfig, bert, arch.SGLang | arch.Transformers5, 1, ""},
		{"a stack for transformers", llama4Config, llama4, 0, 7, ""},
		{"a stack for vLLM", llama4Config, llama4, arch.VLLM, 7, ""},
		{"a stack for SGLang", llama4Config, llama4, arch.SGLang, 0, "sglang cannot load packed experts (model.layers.0.feed_forward.experts."},
	} {
		p, err := NewPlan(writeModel(t, c.config, c.tensors), Options{Targets: c.target, AllowIncomplete: true})
		switch {
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.refused)
		case c.refused == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case err == nil && p.stats.QuantCount != c.packed:
			t.Errorf("%s: %d weights are packed, want %d", c.name, p.stats.QuantCount, c.packed)
		}
	}
}

// A speech encoder with a CTC head is all tower: no target quantizes it, --towers does.
func TestNothingButTowers(t *testing.T) {
	const name = "encoder.layers.0.feed_forward1.linear1.weight"
	src := writeModel(t, `{"model_type": "parakeet_ctc", "architectures": ["ParakeetForCTC"]}`, []testTensor{bf16(name, 64, 64)})
	for _, target := range []arch.Target{0, arch.Transformers5} {
		_, err := NewPlan(src, Options{Targets: target, AllowIncomplete: true})
		var source *SourceError
		if want := "--towers quantize quantizes " + name + " and others"; !errors.As(err, &source) || source.Hint != want {
			t.Errorf("%v: %+v, want the hint %q", target, err, want)
		}
	}
	if p, err := NewPlan(src, Options{Towers: true, AllowIncomplete: true}); err != nil || p.stats.QuantCount != 1 {
		t.Errorf("with towers: %v", err)
	}
}
