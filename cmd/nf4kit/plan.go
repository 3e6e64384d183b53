package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/memplan/page"
	"github.com/nf4kit/nf4kit/internal/memplan/source"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// PlanOptions are the arguments and flags of plan.
type PlanOptions struct {
	Src string

	Method, DType, Precision       string
	Rank                           int64
	Targets, AdapterDType          string
	Dropout                        float64
	DoubleQuant, KbitPrep          bool
	BlockSize                      int64
	Experts, Towers                string
	Optimizer                      string
	Foreach, InBackward            bool
	MicroBatch, Seq, Accumulate    int64
	Padded, Checkpointing, Offload bool
	Attention, Loss                string
	Compile, DropOutputs           bool
	Task, Preset                   string
	DoRA, Embeddings, OnHost       bool
	Bits                           int64
	Sweep                          []string
	GPUs                           int64
	Sharding                       string
	Overhead, Context              string
	Generate                       int64
	GPU, VRAM                      string
	MustFit, NoAdvice, Brief       bool
	HTML                           string
}

func newPlanCommand(g *globals) *cobra.Command {
	var o PlanOptions
	var list bool
	cmd := &cobra.Command{
		Use:        "plan SRC [FLAG=VALUE,...]...",
		SuggestFor: []string{"memory", "estimate", "vram", "size", "fit"},
		Short:      "Plan the GPU memory of full fine-tuning, LoRA or QLoRA, and which GPUs it fits",
		Long: `plan says what a training run on SRC takes: weights, adapters, gradients, optimizer states,
activations and logits, the peak over one training step, and on which GPUs that fits.
Nothing is loaded and no GPU is needed.

SRC is a model directory or a .safetensors file (headers alone are read), a config.json,
or the name of a published model: ` + strings.Join(source.Suggested(), ", ") + `
and more; an unknown name lists those near it.

Allocated is what the tensors take (torch.cuda.max_memory_allocated), reserved adds the
caching allocator's slack, and the run needs at least that and the CUDA context. nvidia-smi
shows more, since the allocator's cache grows while there is room. docs/plan.md compares
the formulas with published measurements.

The Python at the end is the run that was planned: every flag that changes the figures
changes it too, except those that are marked (not in the script).

` + sourceHelp,
		Example: `  nf4kit plan llama-3.1-8b --gpu "RTX 4090"
  nf4kit plan Llama-3.2-1B --method lora --rank 32 --targets q_proj,v_proj --seq 4096
  nf4kit plan config.json --method full --gpus 8 --sharding fsdp --vram 80GiB
  nf4kit plan qwen2.5-7b --optimizer paged-adamw-8bit --html plan.html
  nf4kit plan llama-3.1-8b --preset axolotl --vram 16GiB
  nf4kit plan llama-3.1-8b --sweep rank=8,64 targets=attention,all-linear`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case list:
				return noArguments(cmd, args)
			case len(o.Sweep) > 0:
				return atLeast("SRC")(cmd, args)
			}
			return arguments("SRC")(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return modelshape.BuiltinNames(), cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return printLists(g)
			}
			o.Src = args[0]
			if err := o.preset(cmd.Flags()); err != nil {
				return err
			}
			if len(o.Sweep) > 0 {
				return o.sweep(cmd.Context(), g, cmd.Flags(), append(o.Sweep, args[1:]...))
			}
			return runPlan(cmd.Context(), g, o)
		},
	}
	o.flags(cmd.Flags())
	for flag, values := range planValues {
		enum(cmd, flag, values...)
	}
	var gpus []string
	for _, gpu := range memplan.GPUs() {
		gpus = append(gpus, gpu.Name)
	}
	complete(cmd, "gpu", gpus...)
	complete(cmd, "targets", "all-linear", "attention", "mlp")
	cmd.Flags().BoolVar(&list, "list", false, "list the built-in shapes and the GPUs, and stop")
	return cmd
}

// run turns the flags into a run; a wrong one is a usage error.
func (o *PlanOptions) run(dtype memplan.DType) (memplan.Run, error) {
	r := memplan.Run{
		Method: memplan.Method(o.Method), Base: memplan.DType(o.DType), Precision: o.precision(memplan.Method(o.Method)),
		Rank: o.Rank, Targets: o.Targets, AdapterDType: memplan.DType(o.AdapterDType), Dropout: o.Dropout,
		NoDoubleQuant: !o.DoubleQuant, BlockSize: o.BlockSize, NoKbitPrep: !o.KbitPrep, QuantExperts: o.Experts == "quantize", QuantTowers: o.Towers == "quantize",
		Optimizer: memplan.Optimizer(o.Optimizer), Foreach: o.Foreach, InBackward: o.InBackward,
		MicroBatch: o.MicroBatch, Seq: o.Seq, Accumulate: o.Accumulate, Padded: o.Padded, NoCheckpointing: !o.Checkpointing, Offload: o.Offload,
		Attention: memplan.Attention(o.Attention), Loss: memplan.Loss(o.Loss), Compile: o.Compile, DropOutputs: o.DropOutputs,
		GPUs: o.GPUs, Sharding: memplan.Sharding(o.Sharding),
		Task: memplan.Task(o.Task), Bits: o.Bits, DoRA: o.DoRA, Embeddings: o.Embeddings, OnHost: o.OnHost,
	}
	for _, f := range []struct {
		name string
		v    int64
	}{{"rank", o.Rank}, {"block-size", o.BlockSize}, {"micro-batch", o.MicroBatch}, {"seq", o.Seq}, {"accumulate", o.Accumulate}, {"gpus", o.GPUs}} {
		if f.v < 1 { // zero would stand for the default
			return r, usagef("--%s: %d is not positive", f.name, f.v)
		}
	}
	for _, f := range [][2]string{{"experts", o.Experts}, {"towers", o.Towers}} {
		if f[1] != "keep" && f[1] != "quantize" {
			return r, usagef("--%s %q: want keep or quantize", f[0], f[1])
		}
	}
	if o.Bits != 4 && o.Bits != 8 {
		return r, usagef("--bits: %d; want 4 or 8", o.Bits)
	}
	if o.DType == "auto" {
		r.Base = memplan.BF16
		if dtype == memplan.F16 || dtype == memplan.BF16 {
			r.Base = dtype
		}
	}
	if o.Generate < 0 || o.Generate > 1<<32 {
		return r, usagef("--generate: %d tokens", o.Generate)
	}
	slack, err := parseShare(o.Overhead)
	if err != nil {
		return r, usagef("--overhead %q: want a share such as 5%% or 0.05", o.Overhead)
	}
	if r.Slack = slack; slack == 0 {
		r.Slack = -1
	}
	if r.Context, err = parseSize("context", o.Context); err != nil {
		return r, err
	}
	if err := r.Validate(); err != nil {
		return r, planUsage(err)
	}
	return r, nil
}

// precision is --precision, and what auto stands for with a method.
func (o *PlanOptions) precision(m memplan.Method) memplan.Precision {
	if o.Precision == "auto" {
		return memplan.DefaultPrecision(m, memplan.Sharding(o.Sharding))
	}
	return memplan.Precision(o.Precision)
}

// parseShare reads 5% or 0.05.
func parseShare(s string) (float64, error) {
	num, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(num, 64)
	if percent {
		v /= 100
	}
	if err != nil || math.IsNaN(v) || v < 0 || v > 10 {
		return 0, fmt.Errorf("not a share")
	}
	return v, nil
}

// planUsage makes memplan's complaint about an option one about its flag.
func planUsage(err error) error {
	var o *memplan.OptionError
	if errors.As(err, &o) {
		return usagef("--%s: %s", o.Option, o.Msg)
	}
	return err
}

// target is the GPU that was asked about.
type target struct {
	name   string
	usable int64
	listed bool
}

func (o *PlanOptions) target() (*target, error) {
	switch {
	case o.GPU != "" && o.VRAM != "":
		return nil, usagef("--gpu and --vram say the same; give one")
	case o.GPU != "":
		g, err := memplan.FindGPU(o.GPU)
		if err != nil {
			return nil, planUsage(err)
		}
		return &target{g.Name, g.Usable(), true}, nil
	case o.VRAM != "":
		n, err := parseSize("vram", o.VRAM)
		if err != nil {
			return nil, err
		}
		if n < 1 || n > 1<<50 {
			return nil, usagef("--vram %q is out of range", o.VRAM)
		}
		return &target{o.VRAM, n, false}, nil
	case o.MustFit:
		return nil, usagef("--must-fit needs --gpu or --vram")
	}
	return nil, nil
}

// planned is everything the command reports.
type planned struct {
	src     *source.Source
	plan    *memplan.Plan
	usual   []variant // full, LoRA, QLoRA with otherwise the same options
	target  *target
	changes []memplan.Change
	chain   []memplan.Change
	file    int64 // bytes of the adapter file
	opts    PlanOptions
}

// variant is one row of the comparison.
type variant struct {
	name string
	plan *memplan.Plan
	file int64
}

// runPlan is the command without cobra.
func runPlan(ctx context.Context, g *globals, o PlanOptions) error {
	t, err := o.target()
	if err != nil {
		return err
	}
	if o.HTML != "" && !strings.HasSuffix(o.HTML, ".html") {
		return usagef("--html %s: want a name that ends in .html", o.HTML)
	}
	if _, err := o.run(""); err != nil { // flags first, whatever SRC is
		return err
	}
	collectGarbage(headerMemory)
	src, err := await(ctx, func() (*source.Source, error) {
		return source.Open(o.Src, func(src string) (*checkpoint.Source, error) { return g.openSource(ctx, src) })
	})
	if err != nil {
		return err
	}
	g.warn(src.Warnings)
	p, err := await(ctx, func() (*planned, error) { return o.planned(src, t) })
	if err != nil {
		return err
	}
	if o.HTML != "" {
		if err := p.writePage(o.HTML); err != nil {
			return err
		}
	}
	if g.JSON {
		if err := writeJSON(g.Stdout, p.json()); err != nil {
			return err
		}
	} else {
		if o.Brief {
			p.printBrief(g.Stdout)
		} else {
			p.print(g.Stdout, g.Verbose)
		}
	}
	if o.HTML != "" && !g.Quiet {
		noticef(g.Stderr, "wrote %s", o.HTML)
	}
	if o.MustFit && p.plan.Memory.Process > t.usable {
		return &checkError{fmt.Sprintf("%s does not fit %s: %s of %s usable", src.Model.Name, t.name, gibText(p.plan.Memory.Process), gibText(t.usable))}
	}
	return nil
}

// planned plans the run and what is shown beside it.
func (o *PlanOptions) planned(src *source.Source, t *target) (*planned, error) {
	r, err := o.run(src.DType)
	if err != nil {
		return nil, err
	}
	p := &planned{src: src, target: t, opts: *o}
	if p.plan, err = memplan.New(src.Model, r); err != nil {
		return nil, planUsage(err)
	}
	if p.file, err = source.AdapterFile(p.plan.Coefficients.Adapters, p.plan.Run.Rank, p.plan.Run.AdapterDType); err != nil {
		return nil, err
	}
	if err := p.compare(src.Model, r); err != nil {
		return nil, err
	}
	if t != nil {
		p.changes, p.chain = p.plan.Changes(src.Model, t.usable)
	}
	return p, nil
}

// compare plans the usual methods. One that its flags rule out is left out.
func (p *planned) compare(m *modelshape.Model, r memplan.Run) error {
	for _, v := range []struct {
		name  string
		apply func(*memplan.Run)
	}{
		{"full, float32 master", func(r *memplan.Run) { fullRun(r, memplan.Mixed) }},
		{"full", func(r *memplan.Run) { fullRun(r, memplan.Pure) }},
		{"LoRA", func(r *memplan.Run) { r.Method, r.Precision = memplan.LoRA, p.opts.precision(memplan.LoRA) }},
		{"QLoRA NF4", func(r *memplan.Run) {
			r.Method, r.Bits, r.NoDoubleQuant, r.Precision = memplan.QLoRA, 4, true, p.opts.precision(memplan.QLoRA)
		}},
		{"QLoRA NF4+DQ", func(r *memplan.Run) {
			r.Method, r.Bits, r.NoDoubleQuant, r.Precision = memplan.QLoRA, 4, false, p.opts.precision(memplan.QLoRA)
		}},
	} {
		x := r
		v.apply(&x)
		q, err := memplan.New(m, x)
		if err != nil {
			continue
		}
		w := variant{name: v.name, plan: q}
		if len(q.Coefficients.Adapters) > 0 {
			if w.file, err = source.AdapterFile(q.Coefficients.Adapters, q.Run.Rank, q.Run.AdapterDType); err != nil {
				return err
			}
		}
		p.usual = append(p.usual, w)
	}
	return nil
}

// fullRun makes the run one of full fine-tuning, without what adapters alone have.
func fullRun(r *memplan.Run, p memplan.Precision) {
	r.Method, r.Precision, r.DoRA, r.Embeddings = memplan.Full, p, false, false
}

// chosen is the row of the comparison that is the plan itself, -1 if none is.
func (p *planned) chosen() int {
	for i, v := range p.usual {
		if v.plan.Run == p.plan.Run {
			return i
		}
	}
	return -1
}

// writePage writes the page.
func (p *planned) writePage(file string) error {
	r := p.plan.Run
	d := page.Data{Title: p.src.Model.Name + ": memory of a training run", Subtitle: p.subtitle(), Chosen: p.chosen(), Batch: r.MicroBatch, Seq: r.Seq, Rank: r.Rank, Context: p.src.Model.Context,
		Facts: p.facts()}
	if !p.opts.NoAdvice {
		d.Advice = p.plan.Guidance()
	}
	var ways []page.Way
	for _, v := range p.usual {
		ways = append(ways, page.Way{Name: v.name, Plan: v.plan})
	}
	if d.Chosen < 0 {
		d.Chosen = len(ways)
		ways = append(ways, page.Way{Name: string(r.Method), Plan: p.plan})
	}
	d.Ways = len(ways)
	d.Variants = page.Variants(p.src.Model, ways, d.Chosen, func(q *memplan.Plan) string { return q.Snippet(p.src.Load) })
	if p.target != nil {
		d.GPU = p.target.name
		if !p.target.listed {
			d.Usable = p.target.usable
		}
	} else {
		d.GPU = "RTX 4090"
	}
	if err := createFile(file, func(w io.Writer) error { return page.Write(w, d) }); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
