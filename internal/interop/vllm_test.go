//go:build interop

package interop

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// vllmPlugin is the wheel that setup.sh downloads.
const vllmPlugin = "vllm_bnb_plugin-0.0.3-py3-none-any.whl"

// vllmCase is one question to vllm_plugin.py.
type vllmCase struct {
	Wheel     string `json:"wheel"`
	Source    string `json:"source"`
	Converted string `json:"converted"`
	Type      string `json:"type"`
	Experts   bool   `json:"experts"`
}

type vllmAnswer struct {
	Error   string   `json:"error"`
	States  int      `json:"states"`
	Skip    []string `json:"skip"`
	Left    []string `json:"left"`
	State   []string `json:"state"`
	Shape   []string `json:"shape"`
	Product []string `json:"product"`
}

// TestVLLMParsing has the parsing code of vLLM's bitsandbytes plugin read what convert writes for vLLM.
func TestVLLMParsing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct {
		family, typ string
		flags       []string
		experts     bool
		states      int
	}{
		{"llama", "nf4", nil, false, 14},
		{"llama", "fp4", []string{"--type", "fp4", "--double-quant=false"}, false, 14},
		{"qwen2", "nf4", []string{"--double-quant=false"}, false, 14},
		{"qwen3_moe", "nf4", []string{"--moe", "per-expert"}, true, 8 + 2*4*3},
		{"mixtral", "nf4", []string{"--moe", "per-expert"}, true, 8 + 2*4*3},
	}
	var sources []familySource
	for _, tt := range tests {
		sources = append(sources, familySource{Family: tt.family, Out: filepath.Join(dir, tt.family)})
	}
	for _, a := range python[familySource, familySourceAnswer](t, t4, "families_models.py", sources) {
		if a.Error != "" {
			t.Fatal(a.Error)
		}
	}
	var cases []vllmCase
	for i, tt := range tests {
		cases = append(cases, vllmCase{
			Wheel: filepath.Join(home(), "vllm", vllmPlugin), Source: sources[i].Out, Type: tt.typ, Experts: tt.experts,
			Converted: convert(t, sources[i].Out, append([]string{"--target", "vllm", "--no-error"}, tt.flags...)...),
		})
	}
	for i, a := range python[vllmCase, vllmAnswer](t, t5, "vllm_plugin.py", cases) {
		t.Run(tests[i].family+"-"+tests[i].typ, func(t *testing.T) {
			if diff := cmp.Diff(vllmAnswer{States: tests[i].states}, a, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
