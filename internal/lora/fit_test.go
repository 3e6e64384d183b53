package lora

import (
	"math"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A fit of a difference that has a rank finds it, whatever the scaling, and a rank that follows from the energy is the least.
func TestFit(t *testing.T) {
	const name = "model.layers.0.q_proj.weight"
	shape := map[string][]int64{name: {40, 30}}
	a, err := Open(file(t, `{"peft_type":"LORA","r":3,"lora_alpha":6}`, map[string][]int64{"model.layers.0.q_proj.lora_A.weight": {3, 30}, "model.layers.0.q_proj.lora_B.weight": {40, 3}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	before := testBase(shape, safetensors.F32)
	m, err := NewMerge(before, []*Adapter{a}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := m.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	src := &checkpoint.Source{Path: "model"}
	for _, c := range []struct {
		opt  FitOptions
		rank int64
	}{
		{FitOptions{Rank: 3}, 3},
		{FitOptions{Rank: 3, Alpha: 12}, 3},
		{FitOptions{Rank: 8, Energy: 0.99999}, 3},
		{FitOptions{Rank: 64}, 30},
	} {
		f, err := NewFit(t.Context(), &weights.Model{Source: src, Tensors: after}, &weights.Model{Source: src, Tensors: before}, c.opt)
		if err != nil {
			t.Fatal(err)
		}
		dst := t.TempDir() + "/out"
		if err := f.Write(t.Context(), dst, checkpoint.Options{}, nil); err != nil {
			t.Fatal(err)
		}
		fits := f.Fits()
		if len(fits) != 1 || fits[0].Rank != c.rank || !(fits[0].Energy > 0.9999) {
			t.Errorf("%+v: %+v, want rank %d and all of the energy", c.opt, fits, c.rank)
		}
		found, err := Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		again, err := NewMerge(before, []*Adapter{found}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.Apply(before)
		if err != nil {
			t.Fatal(err)
		}
		x, y := readAll(t, &got[0]), readAll(t, &after[0])
		for i := range x {
			if math.Abs(float64(x[i]-y[i])) > 1e-5 {
				t.Errorf("%+v: element %d is %v, want %v", c.opt, i, x[i], y[i])
				break
			}
		}
		found.Close()
	}
}

func readAll(t *testing.T, w *weights.Tensor) []float32 {
	t.Helper()
	v := values{t: w}
	out := make([]float32, w.Elems())
	if err := v.read(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// A Linear that transformers keeps in 32 bits, as T5's wo, is one; a head, an expert's matrix and what is no module are not.
func TestLinears(t *testing.T) {
	m := &weights.Model{Arch: &arch.Model{}}
	for name, c := range map[string]arch.Class{"wo": {Known: true, Module: true}, "head": {Module: true, Head: true}, "up": {Module: true, Expert: true}, "table": {Known: true}} {
		m.Tensors = append(m.Tensors, weights.Tensor{Name: name + ".weight", Class: c, DType: safetensors.F32, Shape: []int64{2, 3}, Bytes: 24})
	}
	if got := Linears(m); len(got) != 1 || got[0].Name != "wo.weight" {
		t.Errorf("%+v", got)
	}
}

func TestMix(t *testing.T) {
	list := func() [][]float32 { return [][]float32{{4, -3, 0.5, 1}, {-1, -2, 8, 1}} }
	for _, c := range []struct {
		method string
		want   []float32
	}{
		{"linear", []float32{3, -5, 8.5, 2}},
		{"ties", []float32{4, -2.5, 8, 0}}, // 4 and -3 of the first, 8 and -2 of the second are left
		{"magnitude_prune", []float32{4, -5, 8, 0}},
	} {
		got := mix(list(), []float32{1, 1}, c.method, &CombineOptions{Density: 0.5}, nil)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.method, got, c.want)
		}
	}
}
