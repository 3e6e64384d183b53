//go:build interop

package interop

import (
	"path/filepath"
	"strings"
	"testing"
)

// heldCase is one question to held.py.
type heldCase struct {
	List      bool   `json:"list,omitempty"`
	Family    string `json:"family,omitempty"`
	Out       string `json:"out,omitempty"`
	Large     bool   `json:"large,omitempty"`
	Source    string `json:"source,omitempty"`
	Converted string `json:"converted,omitempty"`
	DType     string `json:"dtype,omitempty"`
}

type heldAnswer struct {
	Error    string   `json:"error"`
	Absent   string   `json:"absent"`
	Families []string `json:"families"`
	DTypes   []string `json:"dtypes"`
	Names    []string `json:"names"`
	Held     int      `json:"held"`
	Equal    bool     `json:"equal"`
	Finite   bool     `json:"finite"`
}

// TestHeldInFloat32: of float32 checkpoints whose class holds modules in float32, convert writes each tensor in the dtype in which
// transformers' own 4-bit save has it, in float16 and in bfloat16, and the output is the same. One T5 has feed-forward layers
// that put out more than float16 holds, as those of FLAN-T5 do.
//
// With the build tag families it is every family whose class has such a list, in 5.23 and in 4.57:
//
//	go test -tags 'interop families' -timeout 40m ./internal/interop -run HeldInFloat32 -v
func TestHeldInFloat32(t *testing.T) {
	t.Parallel()
	for _, env := range environments {
		if env != t5 && !allFamilies {
			continue
		}
		t.Run(env.name, func(t *testing.T) {
			t.Parallel()
			families := []string{"t5"}
			if allFamilies {
				families = python[heldCase, heldAnswer](t, env, "held.py", []heldCase{{List: true}})[0].Families
			}
			testHeld(t, env, families)
		})
	}
}

func testHeld(t *testing.T, env environment, families []string) {
	dir := t.TempDir()
	sources := []heldCase{{Family: "t5", Out: filepath.Join(dir, "large"), Large: true}}
	for _, f := range families {
		sources = append(sources, heldCase{Family: f, Out: filepath.Join(dir, f)})
	}
	var cases []heldCase
	for i, a := range python[heldCase, heldAnswer](t, env, "held.py", sources) {
		if a.Error+a.Absent != "" {
			t.Logf("%s cannot make %s: %s", env, sources[i].Family, lastLine(a.Error+a.Absent))
			continue
		}
		for _, dtype := range []string{"float16", "bfloat16"} {
			c := heldCase{Family: sources[i].Family, Source: sources[i].Out, Converted: sources[i].Out + "-" + dtype, DType: dtype}
			_, err := runBinary(t, "convert", c.Source, c.Converted, "--dtype", dtype, "--double-quant=false", "--no-error", "-q", "--target", "transformers"+env.name[1:])
			if err == nil {
				cases = append(cases, c)
			} else if !strings.Contains(err.Error(), nothing) {
				t.Error(err)
			}
		}
	}
	held := 0
	for i, a := range python[heldCase, heldAnswer](t, env, "held.py", cases) {
		c := cases[i]
		switch {
		case a.Error != "":
			t.Errorf("%s, %s: %s", c.Source, c.DType, lastLine(a.Error))
		case len(a.DTypes)+len(a.Names) > 0:
			t.Errorf("%s: %d dtypes differ from transformers' save: %q; names in one only: %q", c.Converted, len(a.DTypes), a.DTypes[:min(4, len(a.DTypes))], a.Names[:min(4, len(a.Names))])
		case !a.Equal || !a.Finite:
			t.Errorf("%s: output equals that of bitsandbytes: %v; finite: %v", c.Converted, a.Equal, a.Finite)
		}
		held += a.Held
	}
	if held == 0 {
		t.Error("no tensor is held in float32: nothing was tested")
	}
	t.Logf("%s: %d conversions, %d tensors held in float32", env, len(cases), held)
}
