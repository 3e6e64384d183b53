package source

import (
	"testing"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Modules of one name and several shapes are modules of their own.
func TestAdapterFile(t *testing.T) {
	got, err := AdapterFile([]memplan.Adapter{{Name: "a.*.k.weight", In: 2, Out: 3, Count: 2}, {Name: "a.*.k.weight", In: 2, Out: 5, Count: 1}, {Name: "b.weight", In: 7, Out: 1, Count: 1}}, 4, memplan.F32)
	if err != nil {
		t.Fatal(err)
	}
	var entries []safetensors.Entry
	for path, out := range map[string]int64{"a.0.k": 3, "a.1.k": 3, "a.2.k": 5} {
		entries = append(entries, safetensors.Entry{Name: "base_model.model." + path + ".lora_A.weight", DType: safetensors.F32, Shape: []int64{4, 2}},
			safetensors.Entry{Name: "base_model.model." + path + ".lora_B.weight", DType: safetensors.F32, Shape: []int64{out, 4}})
	}
	entries = append(entries, safetensors.Entry{Name: "base_model.model.b.lora_A.weight", DType: safetensors.F32, Shape: []int64{4, 7}},
		safetensors.Entry{Name: "base_model.model.b.lora_B.weight", DType: safetensors.F32, Shape: []int64{1, 4}})
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	if got != l.Size() {
		t.Errorf("%d bytes, want %d", got, l.Size())
	}
}
