package arch

import "testing"

// Whatever config.json says, there is a model or an error, and the model classifies.
func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{`{"model_type":"llama"}`, `{"model_type":"llava","text_config":{"model_type":"mistral"},"architectures":["X"]}`,
		`{"_class_name":"FluxTransformer2DModel"}`, `{"model_type":"encoder-decoder","encoder":{"model_type":"bert"},"decoder":{"model_type":"bert"}}`,
		`{"model_type":1}`, `{"text_config":null}`, `[]`} {
		f.Add([]byte(s), "model.layers.0.self_attn.q_proj.weight")
	}
	f.Fuzz(func(t *testing.T, config []byte, name string) {
		q, err := ParseConfig(config)
		if err != nil {
			return
		}
		m, err := Resolve(q, []string{name, "lm_head.weight"})
		if err != nil {
			return
		}
		if c := m.Classify(name); c.Quantize(0) != (c.Reason == "") {
			t.Errorf("%s: %q: quantized %v, reason %q", m.Type, name, c.Quantize(0), c.Reason)
		}
	})
}
