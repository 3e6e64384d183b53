package forward

import (
	"errors"
	"strings"
	"testing"
)

const small = `"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 12, "vocab_size": 10`

func TestRefused(t *testing.T) {
	for _, c := range []struct{ typ, config, key, missing string }{
		{"llama", `{` + small + `, "attn_logit_scale": 2}`, "attn_logit_scale", "not a key that is known"},
		{"llama", `{` + small + `, "attn_logit_scale": null, "rope_scaling": {"rope_type": "spiral", "factor": 2}}`, "rope_parameters", `no rotary embeddings of type "spiral"`},
		{"llama", `{` + small + `, "rope_scaling": {"rope_type": "linear", "factor": 2, "twist": 1}}`, "rope_parameters.twist", "not a key"},
		{"llama", `{` + small + `, "rope_scaling": {"rope_type": "linear", "factor": 0}}`, "rope_parameters.factor", "above 0"},
		{"llama", `{` + small + `, "hidden_act": "snake"}`, "hidden_act", `no activation "snake"`},
		{"llama", `{` + small + `, "num_key_value_heads": 3}`, "num_key_value_heads", "2 heads are not to be divided among 3"},
		{"llama", `{` + small + `, "is_encoder_decoder": true}`, "is_encoder_decoder", "false alone"},
		{"llama", `{` + small + `, "sliding_window": 4096}`, "sliding_window", "not a key that is known"},
		{"llama", `{"num_hidden_layers": 100000000}`, "num_hidden_layers", "at most"},
		{"llama", `{"hidden_size": "wide"}`, "hidden_size", "expected a number"},
		{"mistral", `{` + small + `, "attention_bias": true, "mlp_bias": false, "_name": "x"}`, "attention_bias", "not a key that is known"},
		{"qwen2", `{` + small + `, "layer_types": ["full_attention", "chunked_attention", "full_attention"]}`, "layer_types", `"chunked_attention"`},
		{"qwen2", `{` + small + `, "layer_types": ["full_attention"]}`, "layer_types", "for each of 3 layers"},
		{"gemma2", `{` + small + `, "use_bidirectional_attention": true}`, "use_bidirectional_attention", "causal"},
		{"phi3", `{` + small + `, "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1, 2]}}`, "rope_parameters.short_factor", "expected 2 numbers"},
		{"llama", `{` + small + `, "use_qk_norm": true}`, "use_qk_norm", "not a key that is known"},
		{"llama", `{` + small + `, "rotary_pct": 0.25}`, "rotary_pct", "not a key that is known"},
		{"llama", `{` + small + `, "rotary_emb_base": 500000}`, "rotary_emb_base", "not a key that is known"},
		{"cohere", `{` + small + `, "use_sparse": 0}`, "use_sparse", "not a key that is known"},
		{"mamba", `{}`, "", ""},
	} {
		_, err := describe(c.typ, []byte(c.config))
		var u *Unsupported
		if !errors.As(err, &u) || u.Key != c.key || !strings.Contains(u.Missing, c.missing) || u.ModelType != c.typ {
			t.Errorf("%s %s: error %v; want of key %q, with %q", c.typ, c.config, err, c.key, c.missing)
		}
	}
}

func TestDescribed(t *testing.T) {
	for _, typ := range Types() {
		more := ""
		if typ == "glm4_moe" {
			more = `, "head_dim": 128` // the class's own does not divide
		}
		if _, err := describe(typ, []byte(`{"model_type": "`+typ+`", "torch_dtype": "bfloat16", "pad_token_id": null`+more+`}`)); err != nil {
			t.Errorf("%s with the defaults of its class: %v", typ, err)
		}
	}
}

// FuzzDescribe: no config.json makes it panic, and what it describes is of sizes that can be asked for.
func FuzzDescribe(f *testing.F) {
	for i := range Types() {
		f.Add(uint8(i), []byte(`{`+small+`}`))
		f.Add(uint8(i), []byte(`{`+small+`, "rope_scaling": {"rope_type": "yarn", "factor": 4}, "layer_types": ["sliding_attention"], "head_dim": 2}`))
		f.Add(uint8(i), []byte(`{"rope_parameters": {"full_attention": {"rope_type": "llama3", "factor": 1e300}}, "num_hidden_layers": 1, "hidden_size": 4}`))
		f.Add(uint8(i), []byte(`{"num_attention_heads": 0, "num_key_value_heads": -1, "n_layer": 2, "n_head": 1e9, "sliding_window": 1.5}`))
	}
	types := Types()
	f.Fuzz(func(t *testing.T, typ uint8, raw []byte) {
		m, err := describe(types[int(typ)%len(types)], raw)
		if err != nil {
			return
		}
		m.each(func(i int, b *block) {
			if a := &b.attn; a.heads < 1 || a.kvHeads < 1 || a.dim < 1 || a.rotated > a.dim || a.window < 0 {
				t.Errorf("layer %d: %+v", i, a)
			}
		})
	})
}
