//go:build interop

package interop

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// regenerate runs a script that writes a golden file and returns what it
// wrote and what is committed.
func regenerate(t *testing.T, name, golden string, args ...string) (made, committed []byte) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.json")
	args = append([]string{script(name)}, args...)
	for i, a := range args {
		if a == "OUT" {
			args[i] = out
		}
	}
	cmd := exec.CommandContext(t.Context(), t5.python(), args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, msg)
	}
	made, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	committed, err = os.ReadFile(filepath.Join(root, golden))
	if err != nil {
		t.Fatal(err)
	}
	return made, committed
}

// Parameter counts, the quantized share and the class defaults are what
// transformers says today.
func TestPlanParameters(t *testing.T) {
	t.Parallel()
	type table struct {
		Models []struct {
			Name, Class       string
			Params, Quantized int64
		}
	}
	made, committed := regenerate(t, "plan_params.py", "internal/modelshape/testdata/params.json", "OUT")
	var a, b table
	if err := json.Unmarshal(committed, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(made, &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("params.json (-committed +made now):\n%s", diff)
	}
	made, committed = regenerate(t, "plan_params.py", "internal/modelshape/builtin.json", "--builtin", "OUT")
	if diff := cmp.Diff(string(committed), string(made)); diff != "" {
		t.Errorf("builtin.json (-committed +made now):\n%s", diff)
	}
	var types map[string]json.RawMessage
	data, err := os.ReadFile(filepath.Join(root, "internal/modelshape/defaults.json"))
	if err == nil {
		err = json.Unmarshal(data, &types)
	}
	if err != nil {
		t.Fatal(err)
	}
	made, committed = regenerate(t, "plan_defaults.py", "internal/modelshape/defaults.json", append([]string{"OUT"}, slices.Sorted(maps.Keys(types))...)...)
	if diff := cmp.Diff(string(committed), string(made)); diff != "" {
		t.Errorf("defaults.json (-committed +made now):\n%s", diff)
	}
}

// What autograd saves and what is alive during a step is what torch says
// today; memplan's own tests compare the formulas with the committed file.
func TestPlanActivations(t *testing.T) {
	t.Parallel()
	type table struct {
		Cases []struct {
			Name  string
			Saved int64
			Peak  *struct{ Static, Forward, Backward, Step int64 }
		}
	}
	made, committed := regenerate(t, "plan_activations.py", "internal/memplan/testdata/activations.json", "OUT")
	var a, b table
	if err := json.Unmarshal(committed, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(made, &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("activations.json (-committed +made now):\n%s", diff)
	}
}

// The printed Python runs, trains, and makes what the plan says: trained parameters, and bytes of weights and adapters
// to the byte. What needs another package or a GPU is left out.
func TestPlanSnippets(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile(filepath.Join(llama(), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := modelshape.FromConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	type snippet struct {
		Snippet string `json:"snippet"`
		Train   bool   `json:"train"`
	}
	type answer struct {
		Error     string
		Trainable int64
		Resident  int64
		Steps     int
	}
	trainer := memplan.Run{DropOutputs: true}
	with := func(edit func(*memplan.Run)) memplan.Run {
		r := trainer
		edit(&r)
		return r
	}
	cases := []struct {
		run    memplan.Run
		trains bool
	}{
		{with(func(r *memplan.Run) { r.Method, r.Precision = memplan.Full, memplan.Pure }), true},
		{with(func(r *memplan.Run) { r.Method, r.Precision = memplan.Full, memplan.Autocast }), true},
		{memplan.Run{Method: memplan.Full, Precision: memplan.Pure, NoCheckpointing: true}, true},
		{memplan.Run{Method: memplan.Full, Accumulate: 2}, true}, // masters in the loop
		{memplan.Run{Method: memplan.Full, Precision: memplan.Pure, InBackward: true, Optimizer: memplan.Momentum}, true},
		{with(func(r *memplan.Run) { r.Method = memplan.Norms }), true},
		{with(func(r *memplan.Run) { r.Method, r.Targets, r.Rank = memplan.LoRA, "q,v", 4 }), true},
		{with(func(r *memplan.Run) {
			r.Method, r.Targets, r.AdapterDType, r.Optimizer = memplan.LoRA, "attention", memplan.BF16, memplan.Adafactor
		}), true},
		{with(func(r *memplan.Run) {
			r.Method, r.Targets, r.Dropout = memplan.LoRA, `re:model\.layers\.\d+\.mlp\.(up|down)_proj`, 0.1
		}), true},
		{memplan.Run{Method: memplan.LoRA, AdapterDType: memplan.BF16}, true},
		{with(func(r *memplan.Run) { r.Method, r.DoRA = memplan.LoRA, true }), true},
		{with(func(r *memplan.Run) { r.Method, r.Embeddings = memplan.LoRA, true }), true},
		{trainer, true},
		{with(func(r *memplan.Run) { r.NoDoubleQuant, r.Optimizer = true, "paged-adamw-8bit" }), false},
		{with(func(r *memplan.Run) { r.NoKbitPrep, r.Precision = true, memplan.Autocast }), true},
		{with(func(r *memplan.Run) {
			r.Targets, r.Rank, r.Attention, r.Optimizer = "mlp", 3, memplan.Eager, memplan.Lion8
		}), false},
	}
	var asked []snippet
	var plans []*memplan.Plan
	for _, c := range cases {
		p, err := memplan.New(m, c.run)
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
		asked = append(asked, snippet{p.Snippet(llama()), c.trains})
	}
	for i, a := range python[snippet, answer](t, t5, "plan_snippet.py", asked) {
		p := plans[i]
		if a.Error != "" {
			t.Errorf("%+v: %s\n%s", cases[i].run, a.Error, asked[i].Snippet)
			continue
		}
		if a.Trainable != p.Trained {
			t.Errorf("%+v: %d trained parameters, planned %d", cases[i].run, a.Trainable, p.Trained)
		}
		if want := p.Memory.Weights + p.Memory.Adapters; a.Resident != want {
			t.Errorf("%+v: %d bytes resident, planned %d", cases[i].run, a.Resident, want)
		}
		if cases[i].trains && a.Steps == 0 {
			t.Errorf("%+v: the optimizer never stepped", cases[i].run)
		}
	}
}
