//go:build interop

package interop

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// measured is what the tests read of measure --json.
type measured struct {
	RunDType string           `json:"run_dtype"`
	Formats  []measuredFormat `json:"formats"`
	Total    measuredRow      `json:"total"`
	Tensors  []measuredRow    `json:"tensors"`
}

type measuredFormat struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	BlockSize   int    `json:"block_size"`
	DoubleQuant bool   `json:"double_quant"`
}

type measuredRow struct {
	Name    string            `json:"name"`
	Formats []measuredFigures `json:"formats"`
}

type measuredFigures struct {
	RelRMSE float64 `json:"relative_rmse"`
	SQNR    float64 `json:"sqnr_db"`
	MeanAbs float64 `json:"mean_abs_error"`
	MaxAbs  float64 `json:"max_abs_error"`
	Cosine  float64 `json:"cosine"`

	Weighted float64 `json:"activation_weighted_relative_rmse"` // with --imatrix
}

func measureJSON(t *testing.T, args ...string) measured {
	t.Helper()
	var m measured
	if err := json.Unmarshal([]byte(nf4kit(t, append([]string{"measure", "--json"}, args...)...)), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

type measureCase struct {
	Source  string           `json:"source"`
	DType   string           `json:"dtype"`
	Tensors []string         `json:"tensors"`
	Formats []measuredFormat `json:"formats"`
}

type measureAnswer struct {
	Tensors [][]measuredFigures `json:"tensors"`
}

// near compares with a relative tolerance of 1e-9.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b)) }

// TestMeasuredErrors compares every figure of every format with numpy in float64 and the real bitsandbytes.
func TestMeasuredErrors(t *testing.T) {
	t.Parallel()
	all := []string{"--formats", "nf4,fp4,af4,int4,int4-asym,mxfp4,nvfp4,int8,fp8,dynamic8", "--block-sizes", "64,256", "--double-quant", "both"}
	var names []string
	var got []measured
	var cases []measureCase
	for name, c := range map[string]struct {
		source string
		flags  []string
	}{
		"llama":  {llama(), nil},
		"minilm": {minilm(t), []string{"--only", `layer\.(0|5)\.`}},
	} {
		m := measureJSON(t, append(append([]string{c.source}, c.flags...), all...)...)
		names, got = append(names, name), append(got, m)
		k := measureCase{Source: c.source, DType: map[string]string{"bf16": "bfloat16", "f16": "float16"}[m.RunDType], Formats: m.Formats}
		for _, row := range m.Tensors {
			k.Tensors = append(k.Tensors, row.Name)
		}
		cases = append(cases, k)
	}
	for i, a := range python[measureCase, measureAnswer](t, t5, "measure_errors.py", cases) {
		t.Run(names[i], func(t *testing.T) {
			n := 0
			for r, row := range got[i].Tensors {
				for f, have := range row.Formats {
					want := a.Tensors[r][f]
					if !near(have.RelRMSE, want.RelRMSE) || !near(have.SQNR, want.SQNR) || !near(have.MeanAbs, want.MeanAbs) ||
						!near(have.MaxAbs, want.MaxAbs) || !near(have.Cosine, want.Cosine) {
						t.Errorf("%s in %s: %+v, want %+v", row.Name, got[i].Formats[f].Name, have, want)
					}
					n++
				}
			}
			t.Logf("%d tensors, %d formats, %d comparisons", len(got[i].Tensors), len(got[i].Formats), n)
			if n == 0 {
				t.Error("nothing was compared")
			}
		})
	}
}

// TestMeasuresAndProvesOthers takes what transformers and bitsandbytes wrote: the errors of what is written are those of
// the format, but for nested codes one step away, and verify --source explains every byte.
func TestMeasuresAndProvesOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var saves []saveCase
	for _, v := range variants {
		saves = append(saves, saveCase{llama(), filepath.Join(dir, v.name), "causal", "bfloat16", v.typ, v.dq})
	}
	for i, s := range python[saveCase, status](t, t5, "save.py", saves) {
		if s.Error != "" {
			t.Fatalf("%s: %s", variants[i].name, s.Error)
		}
	}
	for i, s := range saves {
		t.Run(variants[i].name, func(t *testing.T) {
			dq := map[bool]string{true: "true", false: "false"}[s.DoubleQuant]
			want := measureJSON(t, llama(), "--formats", s.Type, "--double-quant", dq).Total.Formats[0]
			got := measureJSON(t, llama(), s.Out).Total.Formats[0]
			tolerance := 0.0
			if s.DoubleQuant {
				tolerance = 1e-4
			}
			if math.Abs(got.RelRMSE-want.RelRMSE) > tolerance*want.RelRMSE+1e-12 {
				t.Errorf("relative RMSE of what is written %v, of the format %v", got.RelRMSE, want.RelRMSE)
			}
			out := nf4kit(t, "verify", s.Out, "--source", llama())
			if !strings.Contains(out, " 0 codes, 0 constants and 0 plain tensors differ; 0 tensors without a counterpart") {
				t.Errorf("not proven:\n%s", out)
			}
			t.Log(out)
		})
	}
}

// TestMeasuresInt8 takes an LLM.int8 checkpoint of transformers and bitsandbytes: measure has the figures of their decoding,
// inspect counts scales as constants, verify refuses it.
func TestMeasuresInt8(t *testing.T) {
	t.Parallel()
	type answer struct {
		Error   string                     `json:"error"`
		Tensors map[string]measuredFigures `json:"tensors"`
	}
	out := filepath.Join(t.TempDir(), "int8")
	want := python[saveCase, answer](t, t5, "save_int8.py", []saveCase{{Source: llama(), Out: out, Auto: "causal", DType: "bfloat16"}})[0]
	if want.Error != "" {
		t.Fatal(want.Error)
	}
	got := measureJSON(t, llama(), out)
	if len(got.Tensors) != len(want.Tensors) || len(got.Tensors) == 0 {
		t.Errorf("%d tensors measured, %d written", len(got.Tensors), len(want.Tensors))
	}
	for _, row := range got.Tensors {
		w, h := want.Tensors[row.Name], row.Formats[0]
		if !near(h.RelRMSE, w.RelRMSE) || !near(h.SQNR, w.SQNR) || !near(h.MeanAbs, w.MeanAbs) || !near(h.MaxAbs, w.MaxAbs) || !near(h.Cosine, w.Cosine) {
			t.Errorf("%s: %+v, want %+v", row.Name, h, w)
		}
	}
	if s := nf4kit(t, "inspect", out); !strings.Contains(s, "quantized by bitsandbytes 8-bit") || !strings.Contains(s, "quantized part: 8.204 bits/param") {
		t.Errorf("inspect:\n%s", s)
	}
	if _, err := runBinary(t, "verify", out); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "LLM.int8, not 4-bit") {
		t.Errorf("verify: %v", err)
	}
}

// TestMeasuresActivations takes an importance matrix of the real model's activations: the weighted error is numpy's, and near
// the error of each layer's output that it estimates.
func TestMeasuresActivations(t *testing.T) {
	t.Parallel()
	type imatrixCase struct {
		Source string `json:"source"`
		Out    string `json:"out"`
	}
	type answer struct {
		Error   string `json:"error"`
		Tensors map[string]struct {
			Weighted float64 `json:"weighted"`
			Output   float64 `json:"output"`
		} `json:"tensors"`
	}
	file := filepath.Join(t.TempDir(), "llama.dat")
	want := python[imatrixCase, answer](t, t5, "imatrix.py", []imatrixCase{{llama(), file}})[0]
	if want.Error != "" {
		t.Fatal(want.Error)
	}
	got := measureJSON(t, llama(), "--formats", "nf4", "--double-quant", "false", "--imatrix", file)
	if len(got.Tensors) != len(want.Tensors) || len(got.Tensors) == 0 {
		t.Errorf("%d tensors measured, %d with activations", len(got.Tensors), len(want.Tensors))
	}
	lo, hi := math.Inf(1), 0.0
	for _, row := range got.Tensors {
		w, h := want.Tensors[row.Name], row.Formats[0].Weighted
		if !near(h, w.Weighted) {
			t.Errorf("%s: weighted error %v, want %v", row.Name, h, w.Weighted)
		}
		lo, hi = min(lo, h/w.Output), max(hi, h/w.Output)
	}
	t.Logf("the estimate is %.2f to %.2f times the error of the output", lo, hi)
	// Inputs that go together add up in the output, and the errors do not: it errs on the high side.
	if lo < 0.9 || hi > 4 {
		t.Errorf("the estimate is %.2f to %.2f times the error of the output, want 0.9 to 4", lo, hi)
	}
}
