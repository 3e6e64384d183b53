package lora

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Conv1D that is stored as a Linear is compared with the elements that it has in the base.
func TestCompareConv1D(t *testing.T) {
	conv := tensor("transformer.h.0.attn.c_proj.weight", safetensors.F32, 8, 8)
	fc := tensor("transformer.h.0.mlp.c_fc.weight", safetensors.F32, 8, 32)
	var models []*weights.Model
	for _, seed := range []byte{3, 7} {
		dir := t.TempDir()
		writeTensors(t, filepath.Join(dir, "model.safetensors"), nil, seed, conv, fc, tensor("transformer.wte.weight", safetensors.F32, 6, 8))
		writeFile(t, dir, "config.json", `{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 6}`)
		models = append(models, openModel(t, dir))
	}
	turned := *models[1]
	turned.Tensors = slices.Clone(turned.Tensors)
	for i := range turned.Tensors {
		turned.Tensors[i] = models[1].Linear(&turned.Tensors[i])
	}
	a, err := Open(file(t, `{"peft_type":"LORA","r":2,"fan_in_fan_out":true}`, map[string][]int64{
		"transformer.h.0.attn.c_proj.lora_A.weight": {2, 8}, "transformer.h.0.attn.c_proj.lora_B.weight": {8, 2},
		"transformer.h.0.mlp.c_fc.lora_A.weight": {2, 8}, "transformer.h.0.mlp.c_fc.lora_B.weight": {32, 2}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	gaps := func(base, other *weights.Model) (out []float64) {
		m, err := NewMerge(base.Tensors, []*Adapter{a}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		after, err := m.Apply(base.Tensors)
		if err != nil {
			t.Fatal(err)
		}
		for i := range after {
			if err := after[i].Read(make([]byte, 4*after[i].Elems()), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Compare(t.Context(), other, 2); err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Figures() {
			out = append(out, f.Gap)
		}
		return out
	}
	want := gaps(models[0], models[1])
	if got := gaps(models[0], &turned); !slices.Equal(got, want) || len(want) != 2 || want[0] == 0 || want[1] == 0 {
		t.Errorf("%v apart, turned %v", want, got)
	}
}
