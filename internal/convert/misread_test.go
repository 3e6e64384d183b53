package convert

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// TestMisreads is about weights that transformers quantizes on its own and cannot run: the warning names them, and the --skip that it
// gives keeps them and nothing else.
func TestMisreads(t *testing.T) {
	for _, c := range []struct {
		name, config string
		tensors      []testTensor
		opt          Options
		warning      string // its beginning and its flag
		skip         string
		kept         []string
	}{
		{"mamba", `{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}`, []testTensor{
			bf16("backbone.layers.0.mixer.dt_proj.weight", 64, 8), bf16("backbone.layers.1.mixer.dt_proj.weight", 64, 8),
			bf16("backbone.layers.0.mixer.in_proj.weight", 64, 32)}, Options{},
			"2 weights such as backbone.layers.0.mixer.dt_proj.weight: transformers5 loads what is packed, but takes packed weights for plain matrices and fails",
			`(^|\.)dt_proj\.weight$`, []string{"backbone.layers.0.mixer.dt_proj.weight", "backbone.layers.1.mixer.dt_proj.weight"}},
		{"wavlm", `{"model_type": "wavlm", "architectures": ["WavLMModel"]}`, []testTensor{
			bf16("encoder.layers.0.attention.q_proj.weight", 32, 32), bf16("encoder.layers.0.attention.out_proj.weight", 32, 32),
			bf16("encoder.layers.0.feed_forward.output_dense.weight", 32, 32)}, Options{},
			"2 weights such as encoder.layers.0.attention.", `(^|\.)(out_proj|q_proj)\.weight$`,
			[]string{"encoder.layers.0.attention.out_proj.weight", "encoder.layers.0.attention.q_proj.weight"}},
		{"the same last component elsewhere", `{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"],
			"vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "opt"}}`, []testTensor{
			bf16("vision_tower.vision_model.head.attention.out_proj.weight", 32, 32), bf16("vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.weight", 32, 32),
			bf16("language_model.model.decoder.layers.0.fc1.weight", 32, 32)}, Options{Targets: arch.Transformers4, Towers: true},
			"vision_tower.vision_model.head.attention.out_proj.weight: transformers4 loads", `(^|\.)attention\.out_proj\.weight$`,
			[]string{"vision_tower.vision_model.head.attention.out_proj.weight"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.AllowIncomplete = true // these are parts of models
			p, err := NewPlan(writeModel(t, c.config, c.tensors), c.opt)
			if err != nil {
				t.Fatal(err)
			}
			p.Warnings = p.Warnings[len(p.Incomplete):]
			if len(p.Warnings) != 1 || !strings.HasPrefix(p.Warnings[0], c.warning) || !strings.Contains(p.Warnings[0], "--skip '"+c.skip+"'") {
				t.Fatalf("warnings %q; want %q and %q", p.Warnings, c.warning, c.skip)
			}
			c.opt.Skip = []*regexp.Regexp{regexp.MustCompile(c.skip)}
			p, err = NewPlan(p.Source, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, it := range p.Items {
				if it.Reason == "matched by --skip" {
					kept = append(kept, it.Name)
				}
			}
			if diff := cmp.Diff(c.kept, kept); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if len(p.Warnings) != len(p.Incomplete) {
				t.Errorf("warnings with it: %q", p.Warnings)
			}
		})
	}
}
