//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// saveCase is one question to save.py.
type saveCase struct {
	Source      string `json:"source"`
	Out         string `json:"out"`
	Auto        string `json:"auto"`
	DType       string `json:"dtype"`
	Type        string `json:"type"`
	DoubleQuant bool   `json:"double_quant"`
}

type saveAnswer struct {
	Error     string   `json:"error"`
	Quantized []string `json:"quantized"`
}

// checkInspect holds what inspect says of a saved checkpoint against the modules that transformers quantized in it.
func checkInspect(t *testing.T, s saveCase, modules []string) {
	t.Helper()
	var report struct {
		Tensors []struct{ Name, Format string } `json:"tensors"`
	}
	if err := json.Unmarshal([]byte(nf4kit(t, "inspect", "--json", s.Out)), &report); err != nil {
		t.Fatal(err)
	}
	format := s.Type + ",block=64,nodq"
	if s.DoubleQuant {
		format = s.Type + ",block=64,dq"
	}
	want, got := map[string]string{}, map[string]string{}
	for _, m := range modules {
		want[m+".weight"] = format
	}
	for _, tensor := range report.Tensors {
		if strings.Contains(tensor.Format, "block=") {
			got[tensor.Name] = tensor.Format
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("quantized tensors (-transformers +inspect):\n%s", diff)
	}
}

// dequantizedCase is one question to dequantized.py.
type dequantizedCase struct {
	Quantized   string `json:"quantized"`
	Dequantized string `json:"dequantized"`
	Auto        string `json:"auto"`
	DType       string `json:"dtype"`
}

type dequantizedAnswer struct {
	Error          string   `json:"error"`
	Compared       int      `json:"compared"`
	Negative       int      `json:"negative_scales"`
	Missing        []string `json:"missing"`
	Extra          []string `json:"extra"`
	Differ         []string `json:"differ"`
	ConfigLeft     bool     `json:"quantization_config_left"`
	Linear4bitLeft []string `json:"linear4bit_left"`
	Loading        loading  `json:"loading"`
	DType          string   `json:"dtype"`
	LogitsEqual    bool     `json:"logits_equal"`
	LogitsRelative float64  `json:"logits_relative"`
}

func (a dequantizedAnswer) check(t *testing.T, c dequantizedCase) {
	t.Helper()
	if a.Error != "" {
		t.Fatal(a.Error)
	}
	want := dequantizedAnswer{Compared: a.Compared, Negative: a.Negative, DType: c.DType, LogitsEqual: true}
	if diff := cmp.Diff(want, a, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("dequantized (-want +got):\n%s", diff)
	}
	if a.Compared == 0 {
		t.Error("no tensor was compared")
	}
}

// TestReadsSavePretrained gives nf4kit what transformers itself wrote.
func TestReadsSavePretrained(t *testing.T) {
	t.Parallel()
	models := makeModels(t, map[string]modelCase{"qwen2-tied": {Kind: "qwen2-tied", DType: "bfloat16"}, "qwen2-f16": {Kind: "qwen2-tied", DType: "float16"}})
	for _, env := range environments {
		t.Run(env.String(), func(t *testing.T) {
			dir := t.TempDir()
			var names []string
			var saves []saveCase
			for _, v := range variants {
				for _, s := range []struct{ name, source, dtype string }{
					{"llama", llama(), "bfloat16"},
					{"qwen2-tied", models["qwen2-tied"], "bfloat16"},
					{"qwen2-f16", models["qwen2-f16"], "float16"},
				} {
					name := s.name + "-" + v.name
					names = append(names, name)
					saves = append(saves, saveCase{s.source, filepath.Join(dir, name), "causal", s.dtype, v.typ, v.dq})
				}
			}
			saved := python[saveCase, saveAnswer](t, env, "save.py", saves)
			var cases []dequantizedCase
			for i, s := range saves {
				if saved[i].Error != "" {
					t.Fatalf("%s: %s", names[i], saved[i].Error)
				}
				t.Run(names[i]+"-inspect", func(t *testing.T) { checkInspect(t, s, saved[i].Quantized) })
				t.Run(names[i]+"-verify", func(t *testing.T) { nf4kit(t, "verify", s.Out) })
				out := s.Out + "-plain"
				nf4kit(t, "dequantize", s.Out, out)
				cases = append(cases, dequantizedCase{s.Out, out, s.Auto, s.DType})
			}
			for i, a := range python[dequantizedCase, dequantizedAnswer](t, env, "dequantized.py", cases) {
				t.Run(names[i], func(t *testing.T) { a.check(t, cases[i]) })
			}
		})
	}
}

// TestDequantizesItsOwn takes our converted checkpoints back to plain models, which both versions have to load.
func TestDequantizesItsOwn(t *testing.T) {
	t.Parallel()
	models := makeModels(t, map[string]modelCase{"qwen2-tied": {Kind: "qwen2-tied", DType: "bfloat16"}})
	var names []string
	var cases []dequantizedCase
	for _, v := range variants {
		for name, s := range map[string]struct{ source, auto string }{
			"llama": {llama(), "causal"}, "qwen2-tied": {models["qwen2-tied"], "causal"}, "minilm": {minilm(t), "base"},
		} {
			quantized := convert(t, s.source, v.flags...)
			nf4kit(t, "verify", quantized)
			plain := quantized + "-plain"
			nf4kit(t, "dequantize", quantized, plain)
			names = append(names, name+"-"+v.name)
			cases = append(cases, dequantizedCase{quantized, plain, s.auto, "bfloat16"})
		}
	}
	for _, env := range environments {
		t.Run(env.String(), func(t *testing.T) {
			for i, a := range python[dequantizedCase, dequantizedAnswer](t, env, "dequantized.py", cases) {
				t.Run(names[i], func(t *testing.T) { a.check(t, cases[i]) })
			}
		})
	}
}

// restoredCase is one question to restored.py.
type restoredCase struct {
	Source    string   `json:"source"`
	Restored  string   `json:"restored"`
	Quantized []string `json:"quantized"`
}

type restoredAnswer struct {
	Error         string   `json:"error"`
	Missing       []string `json:"missing"`
	Extra         []string `json:"extra"`
	Misshapen     []string `json:"misshapen"`
	Differ        []string `json:"differ"`
	Wrongly       []string `json:"wrongly"`
	ConfigDiffers bool     `json:"config_differs"`
}

// checkRestored dequantizes what was converted of small models, and compares it with their sources: names, shapes,
// config.json, and values, which are the source's but for those of quantized weights, which bitsandbytes decodes.
func checkRestored(t *testing.T, converted []familyCase) {
	var cases []restoredCase
	for i, c := range converted {
		out := filepath.Join(t.TempDir(), fmt.Sprint(i))
		nf4kit(t, "dequantize", c.Converted, out, "-q")
		cases = append(cases, restoredCase{c.Source, out, c.plan.quantized()})
	}
	for i, a := range python[restoredCase, restoredAnswer](t, t5, "restored.py", cases) {
		if diff := cmp.Diff(restoredAnswer{}, a, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s, %v: dequantized (-want +got):\n%s", cases[i].Source, converted[i].flags, diff)
		}
	}
	t.Logf("%d checkpoints dequantized have the names, the shapes and the values of their sources", len(cases))
}
