package arch

import (
	"strings"
	"testing"
)

// TestFloat32Names parses the whole list: every name is an expression that Python and Go read alike.
func TestFloat32Names(t *testing.T) {
	kinds := map[string]int{}
	for line := range strings.Lines(float32Text) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		if strings.Trim(f[1], "54") != "" || len(f) < 4 {
			t.Errorf("line %q", line)
		}
		kinds[f[2]]++
		for _, name := range f[3:] {
			if strings.ContainsAny(name, `\^$|?+()[]{}`) {
				t.Errorf("%s: name %q is more than components and stars", f[0], name)
			}
		}
	}
	if len(kinds) != 3 || kinds["strict"] < 50 || kinds["loose"] < 10 || kinds["made"] < 30 {
		t.Errorf("lines by kind %v", kinds)
	}
}

// TestFloat32 has what transformers 5.23 and 4.57 hold in float32 themselves (gen/check.py compares all classes).
func TestFloat32(t *testing.T) {
	const five, four, both = Transformers5, Transformers4, Transformers5 | Transformers4
	for _, c := range []struct {
		query Query
		name  string
		five  Hold
		four  Hold
	}{
		{Query{ModelType: "t5"}, "encoder.block.0.layer.1.DenseReluDense.wo.weight", HoldInFloat16, HoldAlways},
		{Query{ModelType: "t5"}, "encoder.block.0.layer.1.DenseReluDense.wi.weight", HoldNever, HoldNever},
		{Query{ModelType: "gpt_oss"}, "model.layers.0.input_layernorm.weight", HoldInFloat16, HoldAlways},
		{Query{ModelType: "gpt_oss"}, "model.norm.weight", HoldInFloat16, HoldAlways},
		{Query{ModelType: "rwkv"}, "rwkv.blocks.0.attention.time_decay", HoldInFloat16, HoldAlways},
		{Query{ModelType: "rwkv"}, "rwkv.blocks.0.attention.time_mix_key", HoldNever, HoldNever},
		{Query{ModelType: "ernie4_5_moe"}, "model.layers.1.mlp.gate.weight", HoldAlways, HoldAlways},
		// 5.x searches for a name anywhere, 4.57 between dots.
		{Query{ModelType: "ernie4_5_moe"}, "model.layers.1.mlp.gate_proj.weight", HoldNever, HoldNever},
		{Query{ModelType: "afmoe"}, "model.layers.1.self_attn.q_norm.weight", HoldInFloat16, HoldNever},
		// The names of a nested model count in 5.x.
		{Query{ModelType: "blip-2", Sub: map[string]string{"text_config": "t5"}}, "language_model.encoder.block.0.layer.1.DenseReluDense.wo.weight", HoldInFloat16, HoldNever},
		{Query{ModelType: "blip-2", Sub: map[string]string{"text_config": "opt"}}, "qformer.encoder.layer.0.output.dense.weight", HoldInFloat16, HoldAlways},
		{Query{ModelType: "blip-2", Sub: map[string]string{"text_config": "opt"}}, "query_tokens", HoldInFloat16, HoldAlways},
		// Made in float32 by the class; and held under another name than the checkpoint's.
		{Query{ModelType: "deberta"}, "deberta.encoder.layer.3.attention.self.q_bias", HoldAlways, HoldNever},
		{Query{ModelType: "deepseek_v4"}, "layers.7.attn.attn_sink", HoldAlways, HoldNever},
		{Query{ModelType: "llama"}, "model.norm.weight", HoldNever, HoldNever},
	} {
		m, err := Resolve(c.query, []string{c.name})
		if err != nil {
			t.Fatal(err)
		}
		class := m.Classify(c.name)
		if class.Hold[V5] != c.five || class.Hold[V4] != c.four {
			t.Errorf("%s %s: held %d in 5.x, %d in 4.57; want %d, %d", m.Class, c.name, class.Hold[V5], class.Hold[V4], c.five, c.four)
		}
		for _, float16 := range []bool{false, true} {
			want := func(h Hold) bool { return h == HoldAlways || h == HoldInFloat16 && float16 }
			for _, target := range []Target{five, both, 0, VLLM} {
				if got := class.Float32(target, float16); got != want(c.five) {
					t.Errorf("%s %s for %v, float16 %v: %v", m.Class, c.name, target, float16, got)
				}
			}
			if got := class.Float32(four, float16); got != want(c.four) {
				t.Errorf("%s %s for %v, float16 %v: %v", m.Class, c.name, four, float16, got)
			}
		}
	}
	m, err := Resolve(Query{ModelType: "WanTransformer3DModel", Diffusers: true}, []string{"scale_shift_table", "blocks.0.attn1.to_q.weight"})
	if err != nil {
		t.Fatal(err)
	}
	if !m.Classify("scale_shift_table").Float32(Diffusers, false) || m.Classify("blocks.0.attn1.to_q.weight").Float32(Diffusers, false) {
		t.Error("WanTransformer3DModel: want scale_shift_table alone in float32")
	}
}
