package arch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReads parses the whole list.
func TestReads(t *testing.T) {
	n := 0
	for typ, list := range reads() {
		if lookupType(typ) == nil {
			t.Errorf("%s: no such model type", typ)
		}
		for _, r := range list {
			n++
			if r.by == 0 || r.how != TakenForMatrix && r.how != TakenForDType && r.how != TakenInTraining && r.how != TakenByKernels || len(r.paths) == 0 {
				t.Errorf("%s: %+v", typ, r)
			}
		}
	}
	if lines := strings.Count(readsText, "\n"); n != lines-1 || n < 50 {
		t.Errorf("%d entries in %d lines", n, lines)
	}
}

func TestMisread(t *testing.T) {
	const both = Transformers5 | Transformers4
	for _, c := range []struct {
		query Query
		name  string
		want  map[Misuse]Target
	}{
		{Query{ModelType: "mamba"}, "backbone.layers.7.mixer.dt_proj.weight", map[Misuse]Target{TakenForMatrix: Transformers5, TakenByKernels: Transformers4}},
		{Query{ModelType: "mamba"}, "backbone.layers.7.mixer.in_proj.weight", nil},
		// It asks whether the model is quantized, but in training.
		{Query{ModelType: "falcon_mamba"}, "backbone.layers.7.mixer.dt_proj.weight", map[Misuse]Target{TakenInTraining: both}},
		{Query{ModelType: "jamba"}, "model.layers.7.mamba.dt_proj.weight", nil},
		{Query{ModelType: "mamba2"}, "backbone.layers.7.mixer.out_proj.weight", map[Misuse]Target{TakenInTraining: both}},
		{Query{ModelType: "wavlm"}, "encoder.layers.3.attention.q_proj.weight", map[Misuse]Target{TakenForMatrix: both}},
		{Query{ModelType: "wavlm"}, "encoder.layers.3.feed_forward.intermediate_dense.weight", nil},
		{Query{ModelType: "switch_transformers"}, "encoder.block.1.layer.1.mlp.experts.expert_77.wo.weight", map[Misuse]Target{TakenForDType: both}},
		{Query{ModelType: "t5"}, "encoder.block.1.layer.1.DenseReluDense.wi.weight", nil},
		{Query{ModelType: "longt5"}, "encoder.block.1.layer.1.DenseReluDense.wo.weight", map[Misuse]Target{TakenForDType: both}},
		{Query{ModelType: "videomae"}, "encoder.layer.0.attention.attention.query.weight", map[Misuse]Target{TakenForMatrix: Transformers4}},
		// SigLIP as another model's tower.
		{Query{ModelType: "llava", Sub: map[string]string{"vision_config": "siglip_vision_model", "text_config": "llama"}},
			"vision_tower.vision_model.head.attention.out_proj.weight", map[Misuse]Target{TakenForMatrix: Transformers4}},
		{Query{ModelType: "llama"}, "model.layers.0.self_attn.out_proj.weight", nil},
	} {
		m, err := Resolve(c.query, []string{c.name})
		if err != nil {
			t.Fatal(err)
		}
		class := m.Classify(c.name)
		if diff := cmp.Diff(c.want, m.Misread(class, both)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", m.Class, c.name, diff)
		}
		if got := m.Misread(class, VLLM|SGLang); got != nil {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
