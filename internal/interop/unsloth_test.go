//go:build interop

package interop

import (
	"path/filepath"
	"strings"
	"testing"
)

type unslothCase struct {
	Program string   `json:"program"`
	Family  string   `json:"family"`
	Out     string   `json:"out"`
	Flags   []string `json:"flags,omitempty"`
	DType   string   `json:"dtype,omitempty"`
	Train   bool     `json:"train,omitempty"`
}

type unslothAnswer struct {
	status
	Said    string   `json:"said"`
	Packed  int      `json:"packed"`
	Equal   int      `json:"equal"`
	Kept    int      `json:"kept"`
	Linears int      `json:"linears"`
	Keys    []string `json:"keys"`
	Forward float64  `json:"forward"`

	Losses  []float64 `json:"losses"`
	Reached int       `json:"reached"` // matrices of adapters on experts with a gradient
}

type unslothFamily struct {
	name           string
	packed, linear int    // stacks in 4 bits, and experts that are Linears
	kept           string // why all stacks stay in 16 bits
}

// TestUnsloth: what --target unsloth writes, Unsloth's own functions load, and every expert has the values that bitsandbytes
// decodes of the file, bit for bit, in bfloat16; in float32 if they lie one by one. Where they cannot load a family's experts in 4
// bits, convert keeps them and says why.
func TestUnsloth(t *testing.T) {
	t.Parallel()
	families := []unslothFamily{
		{"qwen3_moe", 4, 0, ""},
		{"qwen3_5_moe_text", 4, 0, ""},
		{"gemma4_text", 4, 0, ""},
		{"mixtral", 4, 0, ""},
		{"deepseek_v3", 2, 0, ""}, // the first of two layers is dense
		{"glm4_moe", 2, 0, ""},
		{"llama4_text", 0, 2 * 4 * 3, ""}, // Linears to transformers too
		{"gpt_oss", 0, 0, "Unsloth reads gpt-oss in 4 bits only as Linears of other names (gate_up_projs.0, router.linear)"},
		{"qwen3_vl_moe", 0, 0, "which Unsloth cannot turn in 4 bits"},
	}
	if allFamilies {
		families = append(families, unslothFamily{"qwen3_next", 4, 0, ""}, unslothFamily{"lfm2_moe", 2, 0, ""}, unslothFamily{"ernie4_5_moe", 2, 0, ""})
	}
	families = append(families, unslothFamily{"qwen3_moe", 4, 0, ""})
	dir := t.TempDir()
	var cases []unslothCase
	for _, f := range families {
		cases = append(cases, unslothCase{Program: program, Family: f.name, Out: filepath.Join(dir, f.name)})
	}
	cases[0].Train = true
	single := &cases[len(cases)-1]
	single.Out, single.Flags, single.DType = single.Out+"-single", []string{"--moe", "per-expert"}, "float32"
	for i, a := range python[unslothCase, unslothAnswer](t, unsloth, "unsloth.py", cases) {
		f := families[i]
		if a.Error != "" || len(a.Keys) > 0 {
			t.Errorf("%s: keys %v; %s", f.name, a.Keys, a.Error)
			continue
		}
		if a.Packed != f.packed || a.Linears != f.linear || a.Equal != f.packed+f.linear {
			t.Errorf("%s: %d stacks in 4 bits and %d Linears, %d of them equal; want %d and %d", f.name, a.Packed, a.Linears, a.Equal, f.packed, f.linear)
		}
		if (a.Kept > 0) != (f.kept != "") || !strings.Contains(a.Said, f.kept) {
			t.Errorf("%s: %d stacks in 16 bits; want the reason %q in\n%s", f.name, a.Kept, f.kept, a.Said)
		}
		if n := len(a.Losses); cases[i].Train && (n < 2 || a.Losses[n-1] >= a.Losses[0] || a.Reached != 2*f.packed) {
			t.Errorf("%s: losses %v with adapters on the experts, of which %d matrices have a gradient; want them to fall, and %d", f.name, a.Losses, a.Reached, 2*f.packed)
		}
		// Other kernels than transformers', and of experts that lie one by one rounded tables: up to 0.014.
		if a.Packed > 0 && (a.Forward < 0 || a.Forward > 0.03) {
			t.Errorf("%s: logits of Unsloth's forward are %v off", f.name, a.Forward)
		}
	}
}
