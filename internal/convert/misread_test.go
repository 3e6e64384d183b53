package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// TestMisreads is about weights that transformers quantizes on its own and cannot run: by default they stay in 16 bits, with one
// notice; with AsBitsandbytes they are quantized, with a warning.
func TestMisreads(t *testing.T) {
	for _, c := range []struct {
		name, config string
		tensors      []testTensor
		opt          Options
		notice       string // its beginning
		warning      string // with AsBitsandbytes
		kept         []string
	}{
		{"mamba", `{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}`, []testTensor{
			bf16("backbone.layers.0.mixer.dt_proj.weight", 64, 8), bf16("backbone.layers.1.mixer.dt_proj.weight", 64, 8),
			bf16("backbone.layers.0.mixer.in_proj.weight", 64, 32)}, Options{},
			"kept in 16 bits: 2 weights such as backbone.layers.0.mixer.dt_proj.weight, since transformers4 takes packed weights for plain matrices in CUDA kernels such as mamba-ssm's, and transformers5 takes",
			"2 weights such as backbone.layers.0.mixer.dt_proj.weight: transformers5 loads what is packed, but takes packed weights for plain matrices and fails",
			[]string{"backbone.layers.0.mixer.dt_proj.weight", "backbone.layers.1.mixer.dt_proj.weight"}},
		{"wavlm", `{"model_type": "wavlm", "architectures": ["WavLMModel"]}`, []testTensor{
			bf16("encoder.layers.0.attention.q_proj.weight", 32, 32), bf16("encoder.layers.0.attention.out_proj.weight", 32, 32),
			bf16("encoder.layers.0.feed_forward.output_dense.weight", 32, 32)}, Options{},
			"kept in 16 bits: 2 weights such as encoder.layers.0.attention.", "2 weights such as encoder.layers.0.attention.",
			[]string{"encoder.layers.0.attention.out_proj.weight", "encoder.layers.0.attention.q_proj.weight"}},
		{"in another model's tower", `{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"],
			"vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "opt"}}`, []testTensor{
			bf16("vision_tower.vision_model.head.attention.out_proj.weight", 32, 32), bf16("vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.weight", 32, 32),
			bf16("language_model.model.decoder.layers.0.fc1.weight", 32, 32)}, Options{Targets: arch.Transformers4, Towers: true},
			"kept in 16 bits: vision_tower.vision_model.head.attention.out_proj.weight, since transformers4 takes packed weights",
			"vision_tower.vision_model.head.attention.out_proj.weight: transformers4 loads", []string{"vision_tower.vision_model.head.attention.out_proj.weight"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.AllowIncomplete = true // these are parts of models
			src := writeModel(t, c.config, c.tensors)
			p, err := NewPlan(src, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, it := range p.items {
				if strings.HasSuffix(it.Reason, "(--as-bitsandbytes quantizes it)") {
					kept = append(kept, it.Name)
				}
			}
			if diff := cmp.Diff(c.kept, kept); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			var notices int
			for _, n := range p.notices {
				if strings.HasPrefix(n, c.notice) {
					notices++
				}
			}
			if notices != 1 || len(p.warnings) != len(p.incomplete) {
				t.Errorf("notices %q, warnings %q; want one notice %q", p.notices, p.warnings, c.notice)
			}
			c.opt.AsBitsandbytes = true
			if p, err = NewPlan(src, c.opt); err != nil {
				t.Fatal(err)
			}
			p.warnings = p.warnings[len(p.incomplete):]
			if p.stats.KeptCount != 0 || len(p.warnings) != 1 || !strings.HasPrefix(p.warnings[0], c.warning) {
				t.Errorf("as bitsandbytes: %d kept, warnings %q; want %q", p.stats.KeptCount, p.warnings, c.warning)
			}
		})
	}
}
