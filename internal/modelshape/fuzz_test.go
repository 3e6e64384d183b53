package modelshape

import "testing"

// Whatever the tensors, the parameters are those of the tensors, or an error says why not.
func FuzzFromTensors(f *testing.F) {
	f.Add("model.layers.0.self_attn.q_proj.weight", int64(64), int64(64), int64(4), []byte(`{"model_type":"llama"}`))
	f.Add("model.embed_tokens.weight", int64(1<<40), int64(1<<40), int64(1<<31), []byte(nil))
	f.Add("..", int64(0), int64(-1), int64(1), []byte(`{"model_type":"gpt2","n_layer":2,"n_embd":4,"n_head":0}`))
	f.Fuzz(func(t *testing.T, name string, a, b, layers int64, config []byte) {
		tensors := []Tensor{{name, []int64{a, b}}, {"lm_head.weight", []int64{a, b}}, {"model.norm.weight", []int64{b}}}
		for i := range min(max(layers, 0), 8) {
			tensors = append(tensors, Tensor{"model.layers." + string(rune('0'+i)) + ".mlp.up_proj.weight", []int64{b, a}})
		}
		if len(config) == 0 {
			config = nil
		}
		m, err := FromTensors(tensors, config, nil)
		if err != nil {
			return
		}
		if m.Params() < 0 || m.ActiveParams() < 0 || m.ActiveParams() > m.Params() || m.Quantizable() > m.Params() {
			t.Errorf("%d parameters, %d active, %d quantizable", m.Params(), m.ActiveParams(), m.Quantizable())
		}
	})
}
