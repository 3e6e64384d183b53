package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// FitFlags are the flags of the commands that fit an adapter to a difference.
type FitFlags struct {
	Rank       int64
	Alpha      float64
	Iterations int
	Seed       uint64
	Jobs       int
	Force      bool
}

func (o *FitFlags) addFlags(fs *pflag.FlagSet) {
	fs.Int64Var(&o.Rank, "rank", 16, "rank of every module")
	fs.IntVar(&o.Iterations, "iterations", 6, "of the subspace iteration that finds singular values; more are closer to the best")
	fs.Uint64Var(&o.Seed, "seed", 0, "seed of its random start")
	fs.IntVar(&o.Jobs, "jobs", 0, "workers; 0 is one a processor")
	fs.BoolVar(&o.Force, "force", false, "replace DST, once the new one is complete")
}

func (o *FitFlags) options() (lora.FitOptions, error) {
	opt := lora.FitOptions{Rank: o.Rank, Alpha: o.Alpha, Iterations: o.Iterations, Jobs: o.Jobs, Seed: o.Seed}
	limits := Limits{Jobs: o.Jobs, MaxMemory: "512MiB"}
	s, err := limits.stream()
	if err != nil {
		return opt, err
	}
	opt.Jobs = s.Workers()
	switch {
	case o.Rank < 1 || o.Rank > lora.MaxRank:
		return opt, usagef("--rank %d: want 1 to %d", o.Rank, lora.MaxRank)
	case o.Iterations < 1 || o.Iterations > 100:
		return opt, usagef("--iterations %d: want 1 to 100", o.Iterations)
	case o.Alpha < 0 || o.Alpha > 1e6:
		return opt, usagef("--alpha %g: want a number above 0", o.Alpha)
	}
	return opt, nil
}

// openModels opens models; done closes them.
func openModels(ctx context.Context, g *globals, paths ...string) (list []*weights.Model, done func(), err error) {
	var opened []*checkpoint.Source
	done = func() {
		for _, s := range opened {
			_ = s.Close() // they were read
		}
	}
	for _, p := range paths {
		src, err := g.open(ctx, p)
		if err != nil {
			done()
			return nil, nil, err
		}
		opened = append(opened, src)
		m, err := await(ctx, func() (*weights.Model, error) { return weights.Open(src) })
		if err == nil {
			err = notAdapter(src)
		}
		if err != nil {
			done()
			return nil, nil, err
		}
		list = append(list, m)
	}
	return list, done, nil
}

// LoraExtractOptions are the arguments and flags of lora extract.
type LoraExtractOptions struct {
	Tuned, Base, Dst string
	Energy           float64
	FitFlags
}

func newLoraExtractCommand(g *globals) *cobra.Command {
	var o LoraExtractOptions
	cmd := &cobra.Command{
		Use:   "extract FINETUNED BASE DST",
		Short: "Find the adapter in a full fine-tune",
		Long: `extract writes the adapter of --rank that is nearest to what fine-tuning has changed in
the linear layers, FINETUNED - BASE, and says for each which share of the change's
energy |D|^2 it has: the honest answer to whether LoRA would have been enough. With
--energy each module gets the least rank that keeps that share, --rank at most.

Tensors that changed and are no linear layers (embeddings, norms, heads) are listed; an
adapter of low rank cannot have them. --dtype or quantization do not matter: what can be
read is compared as it decodes.`,
		Example: `  nf4kit lora extract my-finetune Llama-3.2-1B adapter --rank 64
  nf4kit lora extract my-finetune Llama-3.2-1B adapter --energy 0.95 --rank 256`,
		Args: arguments("FINETUNED", "BASE", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Tuned, o.Base, o.Dst = args[0], args[1], args[2]
			return runLoraExtract(cmd.Context(), g, o)
		},
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().Float64Var(&o.Energy, "energy", 0, "least share of the energy of every module's change to keep, such as 0.95")
	return cmd
}

// runLoraExtract is the command without cobra.
func runLoraExtract(ctx context.Context, g *globals, o LoraExtractOptions) error {
	opt, err := o.options()
	if err != nil {
		return err
	}
	if o.Energy < 0 || o.Energy >= 1 {
		return usagef("--energy %g: want a share above 0, below 1", o.Energy)
	}
	start := time.Now()
	models, done, err := openModels(ctx, g, o.Tuned, o.Base)
	if err != nil {
		return err
	}
	defer done()
	opt.Energy, opt.Base = o.Energy, o.Base
	f, err := lora.NewFit(ctx, models[0], models[1], opt)
	if err != nil {
		return err
	}
	if err := f.Write(ctx, o.Dst, checkpoint.Options{Force: o.Force, Sources: []string{o.Tuned, o.Base}}, nil); err != nil {
		return err
	}
	rest, err := f.Rest(models[0], models[1])
	if err != nil {
		return err
	}
	return tellFit(g, f.Fits(), rest, fitText{"nf4kit.lora.extract/1", o.Tuned + " - " + o.Base, o.Dst, time.Since(start)})
}

// fitText is what the report of a fit says beside its figures.
type fitText struct {
	schema, of, dst string
	took            time.Duration
}

// tellFit prints what became of the modules.
func tellFit(g *globals, fits []lora.Fit, rest []lora.Left, x fitText) error {
	if g.JSON {
		type fitJSON struct {
			Module string  `json:"module"`
			Tensor string  `json:"tensor"`
			Rank   int64   `json:"rank"`
			Energy float64 `json:"energy"`
			Before float64 `json:"before"`
			After  float64 `json:"after"`
		}
		type leftJSON struct {
			Tensor   string  `json:"tensor"`
			Relative float64 `json:"relative_norm"`
		}
		modules, left := []fitJSON{}, []leftJSON{}
		for _, f := range fits {
			modules = append(modules, fitJSON(f))
		}
		for _, l := range rest {
			left = append(left, leftJSON(l))
		}
		return writeJSON(g.Stdout, map[string]any{"schema": x.schema, "of": x.of, "destination": x.dst, "modules": modules,
			"left_out": left, "seconds": x.took.Seconds()})
	}
	if g.Quiet {
		return nil
	}
	escape.Fprintf(g.Stdout, "%s -> %s in %s\n\n", x.of, x.dst, durationText(x.took))
	t := newTable(g.Stdout)
	t.AppendHeader(row("module", "rank", "|D|/|W| before", "after", "energy"))
	alignRight(t, 2, 5)
	shown := fits
	if !g.Verbose {
		shown = lora.FitsByKind(fits)
	}
	for _, f := range shown {
		t.AppendRow(row(f.Module, f.Rank, figure(f.Before), figure(f.After), fmt.Sprintf("%.2f %%", 100*f.Energy)))
	}
	t.Render()
	for i, l := range rest {
		if i == foldAt && !g.Verbose {
			escape.Fprintf(g.Stdout, "and %d more (-v lists them)\n", len(rest)-i)
			break
		}
		escape.Fprintf(g.Stdout, "left out: %s, which changed by %.2g of it\n", l.Tensor, l.Relative)
	}
	return nil
}

// LoraInitOptions are the arguments and flags of lora init.
type LoraInitOptions struct {
	Src, Quant, Dst string
	Method          string
	Steps           int
	BaseOut         string
	ScaleOptions
	FitFlags
}

// initMethods are the ways to begin.
var initMethods = []string{"loftq", "pissa", "qpissa", "olora"}

func newLoraInitCommand(g *globals) *cobra.Command {
	var o LoraInitOptions
	cmd := &cobra.Command{
		Use:   "init SRC [QUANT] DST",
		Short: "Begin an adapter closer to the unquantized model",
		Long: `init writes an adapter to begin training with, so that the quantized base and the
adapter together are closer to SRC than the base alone, or begin where SRC's weights are
largest:

  loftq   the best of its rank for the error W - Q of the quantized model QUANT. With
          --imatrix or --activations, for the error of the outputs (QERA): errors are
          weighted with the inputs' second moments, or, where the activations have Gram
          matrices, with these, which is exact. --steps N quantizes W - sBA anew and fits
          again, N times; --base-out has the last base then
  pissa   the largest singular values of W; --base-out is W - sBA in SRC's dtypes
  qpissa  the same, and --base-out is W - sBA quantized to NF4, or as QUANT is
  olora   Q and R of the QR decomposition of W, its first --rank columns and rows;
          --base-out is W - sBA in SRC's dtypes, or quantized as QUANT is

The scaling s = alpha/rank is divided out of the factors, so that any --alpha gives the
same update, but for olora, as in PEFT. Printed are |D|/|W| before and after, of each kind of module.`,
		Example: `  nf4kit lora init Llama-3.2-1B Llama-3.2-1B-nf4 adapter --rank 16
  nf4kit lora init Llama-3.2-1B Llama-3.2-1B-nf4 adapter --steps 5 --base-out base
  nf4kit lora init Llama-3.2-1B adapter --method qpissa --base-out base`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Dst = args[0], args[len(args)-1]
			if len(args) == 3 {
				o.Quant = args[1]
			}
			return runLoraInit(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	o.FitFlags.addFlags(fs)
	o.addFiles(fs)
	fs.Float64Var(&o.Alpha, "alpha", 0, "lora_alpha; 0 is the rank")
	fs.StringVar(&o.Method, "method", "loftq", "how: "+strings.Join(initMethods, ", "))
	fs.IntVar(&o.Steps, "steps", 1, "of loftq: how often base and adapter are fitted to each other")
	fs.StringVar(&o.BaseOut, "base-out", "", "write the base that the method makes to `DIR`")
	enum(cmd, "method", initMethods...)
	return cmd
}

func (o *LoraInitOptions) check() error {
	switch {
	case !slices.Contains(initMethods, o.Method):
		return usagef("--method %q: want one of %s", o.Method, strings.Join(initMethods, ", "))
	case o.Method == "loftq" && o.Quant == "":
		return usagef("loftq: give the quantized model, SRC QUANT DST")
	case o.Method == "pissa" && o.Quant != "":
		return usagef("pissa: its base is not quantized; want SRC DST")
	case o.Steps < 1 || o.Steps > 100 || o.Steps > 1 && o.Method != "loftq":
		return usagef("--steps %d: want 1 to 100, more than 1 with loftq alone", o.Steps)
	case (o.Steps > 1 || o.Method != "loftq") && o.BaseOut == "":
		return usagef("--base-out: the method makes a base of its own, which must go somewhere")
	case o.Steps == 1 && o.Method == "loftq" && o.BaseOut != "":
		return usagef("--base-out: one step of loftq leaves the base as it is")
	case o.Imatrix != "" && o.Activations != "":
		return usagef("--imatrix and --activations: give one of them")
	case o.Method == "olora" && (o.Imatrix != "" || o.Activations != ""):
		return usagef("olora: what is known of inputs makes no difference to it")
	}
	return nil
}

// runLoraInit is the command without cobra.
func runLoraInit(ctx context.Context, g *globals, o LoraInitOptions) error {
	opt, err := o.options()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	start := time.Now()
	paths := []string{o.Src}
	if o.Quant != "" {
		paths = append(paths, o.Quant)
	}
	models, done, err := openModels(ctx, g, paths...)
	if err != nil {
		return err
	}
	defer done()
	inputs, _, closeInputs, err := o.open(0)
	if err != nil {
		return err
	}
	defer closeInputs()
	if inputs != nil {
		opt.Moments = inputs.Columns
		opt.Gram = func(weight string, columns int64) ([]float32, error) {
			calibration, _, err := inputs.Gram(weight, columns)
			return calibration, err
		}
	}
	opt.OLoRA = o.Method == "olora"
	opt.Base = o.Quant
	if o.BaseOut != "" {
		opt.Base = o.BaseOut
	}
	var base, formats *weights.Model
	if o.Quant != "" {
		formats = models[1]
	}
	if o.Method == "loftq" {
		base = formats
	}
	var f *lora.Fitting
	for step := range o.Steps {
		if f, err = o.fit(ctx, models[0], base, opt, step); err != nil {
			return err
		}
		last := step == o.Steps-1
		if last && o.Method == "loftq" {
			break
		}
		next, err := o.writeBase(ctx, g, models[0], formats, step)
		if err != nil {
			return err
		}
		if !last {
			src, err := checkpoint.Open(next)
			if err != nil {
				return err
			}
			defer src.Close()
			if base, err = weights.Open(src); err != nil {
				return err
			}
		}
	}
	return tellFit(g, f.Fits(), nil, fitText{"nf4kit.lora.init/1", o.Src, o.Dst, time.Since(start)})
}

// fit fits and writes the adapter, over the one of the step before.
func (o *LoraInitOptions) fit(ctx context.Context, source, base *weights.Model, opt lora.FitOptions, step int) (*lora.Fitting, error) {
	f, err := lora.NewFit(ctx, source, base, opt)
	if err != nil {
		return nil, err
	}
	sources := []string{o.Src}
	if o.Quant != "" {
		sources = append(sources, o.Quant)
	}
	return f, f.Write(ctx, o.Dst, checkpoint.Options{Force: o.Force || step > 0, Sources: sources}, nil)
}

// quantizes tells whether the base that the method makes is quantized.
func (o *LoraInitOptions) quantizes() bool {
	return o.Method != "pissa" && (o.Method != "olora" || o.Quant != "")
}

// writeBase writes SRC less the adapter.
func (o *LoraInitOptions) writeBase(ctx context.Context, g *globals, source, formats *weights.Model, step int) (string, error) {
	m := LoraMergeOptions{Adapters: []string{o.Dst}, Quantize: o.quantizes(), Onto: "auto", Rounding: "peft", Weights: []float64{-1}, Residual: true}
	m.Src, m.Dst, m.DType, m.MaxShardSize, m.NoError = o.Src, o.BaseOut, "auto", "5GB", true
	m.Type, m.BlockSize, m.DoubleQuant, m.ComputeDType, m.QuantStorage, m.Towers, m.MoE = "nf4", 64, true, "auto", "uint8", "keep", "keep"
	m.settings = map[string]string{}
	opt, err := m.merge()
	if err != nil {
		return "", err
	}
	list, done, err := openAdapters(m.Adapters)
	if err != nil {
		return "", err
	}
	defer done()
	x := &merging{o: &m, g: g, base: source, adapters: list, like: formats}
	if x.plan, err = await(ctx, func() (*convert.Plan, error) { return x.planMerge(opt) }); err != nil {
		return "", err
	}
	w := convert.WriteOptions{Execution: convert.Execution{Jobs: o.Jobs, NoError: true}, Force: o.Force || step > 0,
		Sources: []string{o.Dst, o.Src}}
	if m.Quantize {
		w.Manifest = &manifest.Manifest{Tool: "nf4kit " + versionText(), Settings: m.settings, Source: manifest.SourceOf(source.Source)}
	}
	_, err = x.plan.Write(ctx, o.BaseOut, w)
	return o.BaseOut, err
}
