package page

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dop251/goja"
	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomRun is any valid run.
func randomRun(r *rand.Rand) memplan.Run {
	for {
		run := memplan.Run{
			Method: pick(r, memplan.Full, memplan.LoRA, memplan.QLoRA, memplan.Norms), Base: pick(r, memplan.BF16, memplan.F16, memplan.F32),
			Precision: pick(r, memplan.Mixed, memplan.Pure, memplan.Autocast), Targets: pick(r, "all-linear", "attention", "mlp"),
			AdapterDType: pick(r, memplan.F32, memplan.BF16), Dropout: pick(r, 0, 0.1), NoDoubleQuant: r.IntN(2) == 0,
			BlockSize: pick[int64](r, 64, 128, 4096), NoKbitPrep: r.IntN(2) == 0, QuantExperts: r.IntN(2) == 0, QuantTowers: r.IntN(2) == 0,
			Optimizer: memplan.Optimizer(pick(r, memplan.Optimizers()...)), Foreach: r.IntN(2) == 0, InBackward: r.IntN(4) == 0,
			Accumulate: pick[int64](r, 1, 4), Padded: r.IntN(2) == 0, NoCheckpointing: r.IntN(2) == 0, Offload: r.IntN(4) == 0,
			Attention: pick(r, memplan.SDPA, memplan.Eager), Loss: pick(r, memplan.StandardLoss, memplan.ChunkedLoss, memplan.FusedLoss),
			Compile: r.IntN(4) == 0, DropOutputs: r.IntN(2) == 0, GPUs: pick[int64](r, 1, 1, 3, 8),
			Sharding: pick(r, memplan.NoSharding, memplan.ZeRO1, memplan.ZeRO2, memplan.ZeRO3, memplan.FSDP),
			Slack:    pick(r, 0, 0.0731, -1), Context: pick[int64](r, 0, 140<<20),
		}
		if run.Validate() == nil {
			return run
		}
	}
}

// The page's formula gives what Go's gives, to the byte.
func TestFormula(t *testing.T) {
	vm := goja.New()
	if _, err := vm.RunString(formulaJS); err != nil {
		t.Fatal(err)
	}
	at, ok := goja.AssertFunction(vm.Get("memoryAt"))
	if !ok {
		t.Fatal("formula.js has no function memoryAt")
	}
	parse := vm.Get("JSON").ToObject(vm).Get("parse")
	parseJSON, _ := goja.AssertFunction(parse)
	stringify, _ := goja.AssertFunction(vm.Get("JSON").ToObject(vm).Get("stringify"))
	names := modelshape.BuiltinNames()
	r := rand.New(rand.NewPCG(1, 2))
	peaks := map[string]int{}
	for i := range 1200 {
		m, err := modelshape.Builtin(names[r.IntN(len(names))])
		if err != nil {
			t.Fatal(err)
		}
		run := randomRun(r)
		k := memplan.Prepare(m, run)
		batch, seq, rank := 1+r.Int64N(16), 1+r.Int64N(16384), 1+r.Int64N(512)
		if i%3 == 0 { // few tokens, so that gradients and states decide
			batch, seq = 1, 1+r.Int64N(64)
		}
		want := k.At(batch, seq, rank)
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		arg, err := parseJSON(goja.Undefined(), vm.ToValue(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		res, err := at(goja.Undefined(), arg, vm.ToValue(batch), vm.ToValue(seq), vm.ToValue(rank))
		if err != nil {
			t.Fatalf("%s %+v: %v", m.Name, run, err)
		}
		out, err := stringify(goja.Undefined(), res)
		if err != nil {
			t.Fatal(err)
		}
		var got memplan.Memory
		if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
			t.Fatalf("%s: %v\n%s", m.Name, err, out)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%d: %s, batch %d, sequence %d, rank %d, %+v (-Go +JavaScript):\n%s", i, m.Name, batch, seq, rank, run, diff)
		}
		peaks[want.Peak]++
	}
	// The inputs must reach every branch that decides a peak.
	for _, p := range []string{memplan.PhaseLoss, memplan.PhaseLastLayer, memplan.PhaseFirst, memplan.PhaseEmbedding, memplan.PhaseStep} {
		if peaks[p] == 0 {
			t.Errorf("no input peaks at %q: %v", p, peaks)
		}
	}
}

// What the page is told is text, never markup, and it asks for nothing.
func TestWriteEscapes(t *testing.T) {
	var b strings.Builder
	err := Write(&b, Data{Title: "<script>alert(1)</script>", Ways: 1, Facts: []string{"<i>"}, GPU: "</script><b>", Usable: 1 << 30,
		Variants: []Variant{{Name: "</script><b>", Snippet: "a </pre><b>", Coefficients: &memplan.Coefficients{}}}})
	if err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script>alert", "</pre><b>", "<li><i>", "</script><b>", "http://", "https://", "src="} {
		if strings.Contains(page, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
}
