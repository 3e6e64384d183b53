package main

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// gibText writes a size in binary units: GPU memory is sold and shown in
// them.
func gibText(n int64) string {
	v := float64(n)
	switch {
	case n < 0:
		return "-" + gibText(-n)
	case n >= 100<<30:
		return fmt.Sprintf("%.0f GiB", v/(1<<30))
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", v/(1<<30))
	case n >= 10<<20:
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	}
	return fmt.Sprintf("%.1f MiB", v/(1<<20))
}

// bar draws a share of full as up to 32 blocks.
func bar(n, full int64) string {
	const width = 32
	if full <= 0 || n <= 0 {
		return ""
	}
	eighths := int(float64(n)/float64(full)*width*8 + 0.5)
	eighths = max(1, min(eighths, width*8))
	s := strings.Repeat("\u2588", eighths/8)
	if e := eighths % 8; e > 0 {
		s += string(rune('\u2590' - e)) // from seven eighths, U+2589, to one, U+258F
	}
	return s
}

func billions(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f billion", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f million", float64(n)/1e6)
	}
	return countText(n)
}

// moments are the phases in words.
var moments = map[string]string{
	memplan.PhaseForward: "forward, loss", memplan.PhaseLoss: "backward, loss", memplan.PhaseLastLayer: "backward, last layer",
	memplan.PhaseGenerate: "generation", memplan.PhaseFirst: "backward, first layer", memplan.PhaseEmbedding: "backward, embedding", memplan.PhaseStep: "optimizer step",
}

// print writes the report for people.
func (p *planned) print(w io.Writer, verbose bool) {
	x, r := p.plan.Memory, p.plan.Run
	escape.Fprintf(w, "%s: %s\n", p.src.Model.Name, p.subtitle())
	for _, f := range p.facts() {
		escape.Fprintf(w, "  %s\n", f)
	}

	escape.Fprintf(w, "\nMemory at the peak (%s), micro-batch %d of %s tokens:\n", moments[x.Peak], r.MicroBatch, countText(r.Seq))
	t := newTable(w)
	for _, c := range p.parts() {
		if c.bytes > 0 {
			t.AppendRow(row(c.name, gibText(c.bytes), bar(c.bytes, x.Allocated), c.note))
		}
	}
	t.AppendSeparator()
	t.AppendRow(row("allocated", gibText(x.Allocated), "", "torch.cuda.max_memory_allocated()"))
	t.AppendRow(row("reserved", gibText(x.Reserved), "", "with the allocator's slack"))
	if x.Paged > 0 {
		t.AppendRow(row("paged states", gibText(x.Paged), "", "in unified memory: on the GPU while there is room, else on the host"))
	}
	t.AppendRow(row("needs", gibText(x.Process), "", "at least: with the CUDA context"))
	if x.Paged > 0 {
		t.AppendRow(row("at the least", gibText(x.Least), "", "with all paged states on the host"))
	}
	if x.Host > 0 {
		t.AppendRow(row("host memory", gibText(x.Host), "", "at most, for paged states and offloaded activations"))
	}
	alignRight(t, 2, 2)
	t.drops(3)
	t.prose = true
	t.Render()
	median, high := p.shown()
	escape.Fprintf(w, "nvidia-smi will show more, probably %s to %s: the cache grows while there is room.\n", gibText(median), gibText(high))

	escape.Fprintf(w, "\nOver one training step:\n")
	t = newTable(w)
	for _, ph := range x.Phases {
		t.AppendRow(row(moments[ph.Name], gibText(ph.Allocated), bar(ph.Allocated, x.Allocated)))
	}
	alignRight(t, 2, 2)
	t.Render()

	p.printMethods(w)
	p.printGPUs(w, verbose)
	p.printChanges(w)
	p.printGeneration(w)
	if !p.opts.NoAdvice {
		if advice := p.plan.Guidance(); len(advice) > 0 {
			fmt.Fprintln(w)
			for _, a := range advice {
				escape.Fprintf(w, "- %s\n  [%s]\n", a.Text, a.Source)
			}
		}
	}
	fmt.Fprintln(w)
	printPython(w, p.plan.Snippet(p.src.Load))
}

// printBrief is --brief.
func (p *planned) printBrief(w io.Writer) {
	x := p.plan.Memory
	state := x.Weights + x.Adapters + x.Gradients + x.Optimizer + x.Paged
	escape.Fprintf(w, "%s: %s\n", p.src.Model.Name, p.subtitle())
	escape.Fprintf(w, "  %s\n", p.facts()[0])
	escape.Fprintf(w, "  weights, gradients and optimizer %s (%.2f bytes a parameter), allocated %s, needs at least %s\n",
		bytesText(state), float64(state)/float64(max(p.plan.Weights.Params, 1)), gibText(x.Allocated), gibText(x.Process))
	if x.Paged > 0 {
		escape.Fprintf(w, "  with all paged states on the host %s\n", bytesText(x.Least))
	}
	p.printMethods(w)
}

// printMethods is the table of the usual methods.
func (p *planned) printMethods(w io.Writer) {
	escape.Fprintf(w, "\nWays to train it, otherwise the same:\n")
	t := newTable(w)
	t.AppendHeader(row("method", "weights file", "bits/param", "trained", "share", "adapter file", "needs"))
	for i, v := range p.usual {
		name, file := v.name, "-"
		if i == p.chosen() {
			name += " *"
		}
		if v.file > 0 {
			file = bytesText(v.file)
		}
		q := v.plan
		t.AppendRow(row(name, bytesText(q.Weights.File), fmt.Sprintf("%.2f", q.Weights.Bits()), countText(q.Trained),
			fmt.Sprintf("%.3g %%", 100*float64(q.Trained)/float64(q.Weights.Params+q.AdapterParams)), file, gibText(q.Memory.Process)))
	}
	alignRight(t, 2, 7)
	t.drops(6, 5, 2, 3)
	t.Render()
}

// shown is what nvidia-smi will probably show, on the GPU that was asked about.
func (p *planned) shown() (median, high int64) {
	usable := int64(math.MaxInt64)
	if p.target != nil {
		usable = p.target.usable
	}
	return p.plan.Memory.Shown(usable)
}

// usualGPUs are printed without -v.
var usualGPUs = []string{"RTX 3060", "T4", "RTX 4080", "L4", "RTX 4090", "RTX 5090", "A100 40GB", "L40S", "RTX A6000", "A100 80GB", "H100 80GB", "H200", "B200"}

func (p *planned) printGPUs(w io.Writer, verbose bool) {
	escape.Fprintf(w, "\nGPUs:\n")
	t := newTable(w)
	t.AppendHeader(row("GPU", "memory", "verdict", "left", "micro-batch", "sequence"))
	list := memplan.GPUs()
	if !verbose {
		list = nil
		for _, n := range usualGPUs {
			if g, err := memplan.FindGPU(n); err == nil {
				list = append(list, g)
			}
		}
	}
	add := func(name, total string, usable int64) {
		c := p.fit(usable)
		left := "-"
		if c.Left > 0 {
			left = gibText(c.Left)
		}
		t.AppendRow(row(name, total, c.Verdict, left, atMost(c.MicroBatch), atMost(c.Seq)))
	}
	listed := false
	for _, g := range list {
		name := g.Name
		if p.target != nil && p.target.name == g.Name {
			name, listed = name+" *", true
		}
		add(name, fmt.Sprintf("%d MiB", g.MiB), g.Usable())
	}
	if p.target != nil && !listed {
		t.AppendSeparator()
		add(p.target.name+" *", fmt.Sprintf("%d MiB", p.target.usable>>20), p.target.usable)
	}
	alignRight(t, 2, 6)
	t.Render()
}

func atMost(n int64) string {
	if n == 0 {
		return "-"
	}
	return countText(n)
}

// fit is a GPU's verdict.
type fit struct {
	Verdict    memplan.Verdict
	Left       int64 // 0 if it does not fit
	MicroBatch int64
	Seq        int64
}

func (p *planned) fit(usable int64) fit {
	return fit{p.plan.Memory.Fit(usable), max(usable-p.plan.Memory.Process, 0), p.plan.MaxBatch(usable), p.plan.MaxSeq(usable)}
}

// printChanges says what to do if the plan does not fit the target.
func (p *planned) printChanges(w io.Writer) {
	if p.target == nil {
		return
	}
	x := p.plan.Memory
	switch v := x.Fit(p.target.usable); v {
	case memplan.Fits, memplan.Tight:
		escape.Fprintf(w, "\nIt fits %s with %s to spare.\n", p.target.name, gibText(p.target.usable-x.Process))
		return
	case memplan.Pages:
		escape.Fprintf(w, "\nIt fits %s only with %s of optimizer states on the host.\n", p.target.name, gibText(x.Process-p.target.usable))
	default:
		escape.Fprintf(w, "\nIt does not fit %s: %s too much. What to change, most saved for its price first:\n", p.target.name, gibText(x.Process-p.target.usable))
	}
	t := newTable(w)
	t.AppendHeader(row("change", "saves", "then", "", "price", "flag"))
	for _, c := range p.changes {
		verdict := ""
		if c.After <= p.target.usable {
			verdict = "fits"
		}
		t.AppendRow(row(c.What, gibText(c.Saved), gibText(c.After), verdict, c.Price, c.Flag))
	}
	alignRight(t, 2, 3)
	t.drops(5, 4)
	t.Render()
	if len(p.chain) > 0 {
		var names []string
		for _, c := range p.chain {
			names = append(names, c.What)
		}
		escape.Fprintf(w, "One way down: %s: %s.\n", strings.Join(names, ", then "), gibText(p.chain[len(p.chain)-1].After))
	} else {
		fmt.Fprintln(w, "No sequence of these changes makes it fit.")
	}
}

// cache is the KV cache of --generate.
func (p *planned) cache() (token, total int64) {
	s, elem := p.src.Model.Stack, p.plan.Run.Base.Size()
	return memplan.KVCache(s, 1, elem), p.plan.Run.MicroBatch * memplan.KVCache(s, p.opts.Generate, elem)
}

func (p *planned) printGeneration(w io.Writer) {
	if p.opts.Generate == 0 {
		return
	}
	token, total := p.cache()
	w16, w4 := p.generationWeights()
	escape.Fprintf(w, "\nGeneration: a KV cache of %.1f KiB a token, %s for %d x %s tokens; with 16-bit weights %s, with NF4 %s.\n",
		float64(token)/1024, gibText(total), p.plan.Run.MicroBatch, countText(p.opts.Generate), gibText(w16+total), gibText(w4+total))
}

// generationWeights are the weights without adapters or kbit preparation, in
// 16 bits and in 4.
func (p *planned) generationWeights() (plain, quantized int64) {
	r := p.plan.Run
	r.Method, r.NoKbitPrep, r.GPUs, r.Sharding, r.InBackward, r.Targets = memplan.QLoRA, true, 1, memplan.NoSharding, false, "all-linear"
	if r.Base == memplan.F32 {
		r.Base = memplan.BF16
	}
	q, err := memplan.New(p.src.Model, r)
	if err != nil { // nothing to put in 4 bits
		return p.plan.Weights.Device, p.plan.Weights.Device
	}
	return 2 * q.Weights.Params, q.Weights.Device
}

// printLists is plan --list.
func printLists(g *globals) error {
	type shape struct {
		Name   string `json:"name"`
		Params int64  `json:"params"`
	}
	type card struct {
		Name   string `json:"name"`
		MiB    int64  `json:"mib"`
		Usable int64  `json:"usable_bytes"`
	}
	var shapes []shape
	for _, name := range modelshape.BuiltinNames() {
		m, err := modelshape.Builtin(name)
		if err != nil {
			return err
		}
		shapes = append(shapes, shape{name, m.Params()})
	}
	var cards []card
	for _, c := range memplan.GPUs() {
		cards = append(cards, card{c.Name, c.MiB, c.Usable()})
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.plan-list/1", "shapes": shapes, "gpus": cards})
	}
	t := newTable(g.Stdout)
	t.AppendHeader(row("built-in shape", "parameters"))
	for _, s := range shapes {
		t.AppendRow(row(s.Name, billions(s.Params)))
	}
	t.Render()
	fmt.Fprintln(g.Stdout)
	t = newTable(g.Stdout)
	t.AppendHeader(row("GPU", "memory", "usable"))
	for _, c := range cards {
		t.AppendRow(row(c.Name, gibText(c.MiB<<20), gibText(c.Usable)))
	}
	t.Render()
	return nil
}
