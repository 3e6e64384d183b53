package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/imatrix"
	"github.com/nf4kit/nf4kit/internal/measure"
	"github.com/nf4kit/nf4kit/internal/report"
)

// MeasureOptions are the arguments and flags of measure.
type MeasureOptions struct {
	Src, Quant  string
	Formats     []string
	BlockSizes  []int
	DoubleQuant string
	DType       string
	Only, Skip  []string
	Towers      string
	Sample      float64
	Imatrix     string
	Reports     []string
	Worst       int
	Limits
	Gates
}

func newMeasureCommand(g *globals) *cobra.Command {
	var o MeasureOptions
	cmd := &cobra.Command{
		Use:        "measure SRC [QUANT]",
		SuggestFor: []string{"error", "compare", "evaluate"},
		Short:      "Measure the reconstruction error of 4-bit and 8-bit formats, or of a written checkpoint",
		Long: `measure quantizes and decodes every weight of SRC that convert would quantize, in each
of --formats, and reports the error against the source with the exact bits per parameter.
Nothing is written but the reports asked for.

With QUANT, a checkpoint made from SRC by nf4kit or anyone else (bitsandbytes 4-bit or
LLM.int8), it measures what is written there instead.

Formats: nf4 fp4 af4 int4 int4-asym mxfp4 nvfp4 and, for reference, int8 (LLM.int8) fp8
(E4M3, one scale a tensor) dynamic8 (bitsandbytes' blockwise 8-bit).

Columns, with e the source's weight less the decoded one: bits/param counts codes, scales
and tables; rel RMSE is ||e|| / ||weights||, SQNR the same in dB; p99 |e| bounds 99 % of the
errors; zeros is the share of weights that decode to 0, entropy how many bits of a code carry
information, outliers the share of blocks whose largest weight is above twice the mean. With
--imatrix, act. RMSE weighs errors by the layer's inputs.

Gates make the command exit with 4. VALUE alone is a limit on the total, KIND=VALUE on one
kind of module, such as down_proj=0.1; they apply to the first format, or to all that a
checkpoint has been written in.

` + sourceHelp,
		Example: `  nf4kit measure Llama-3.2-1B
  nf4kit measure Llama-3.2-1B --formats nf4,fp4 --block-sizes 32,64,128 --double-quant both --report rd.html
  nf4kit measure Llama-3.2-70B --sample 0.02
  nf4kit measure Llama-3.2-1B Llama-3.2-1B-nf4 --max-rel-rmse 0.1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return surplus(cmd, args[2:], "SRC and perhaps QUANT")
			}
			return atLeast("SRC")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src = args[0]
			if len(args) > 1 {
				o.Quant = args[1]
				for _, name := range []string{"formats", "block-sizes", "double-quant", "dtype", "sample"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s: what is measured in %s is as it was written", name, o.Quant)
					}
				}
			}
			return runMeasure(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&o.Formats, "formats", []string{"nf4", "fp4", "int4", "af4", "mxfp4", "nvfp4"}, "formats to compare: "+strings.Join(measure.KindNames(), " "))
	fs.IntSliceVar(&o.BlockSizes, "block-sizes", []int{64}, "block sizes of nf4, fp4, af4, int4 and int4-asym")
	fs.StringVar(&o.DoubleQuant, "double-quant", "true", "double quantization of the scales: true, false or both")
	fs.StringVar(&o.DType, "dtype", "auto", "dtype that weights are rounded to first: auto, bfloat16 or float16")
	fs.StringArrayVar(&o.Only, "only", nil, "measure tensors whose name matches `REGEX` (repeatable)")
	fs.StringArrayVar(&o.Skip, "skip", nil, "leave out tensors whose name matches `REGEX` (repeatable)")
	fs.StringVar(&o.Towers, "towers", "keep", "vision and audio towers: keep, or quantize to measure them too")
	fs.Float64Var(&o.Sample, "sample", 0, "measure this share of each tensor, such as 0.02, and give 95 % confidence intervals")
	fs.StringVar(&o.Imatrix, "imatrix", "", "importance matrix `FILE` of llama.cpp's llama-imatrix (.gguf or .dat): adds the activation-weighted error")
	fs.StringArrayVar(&o.Reports, "report", nil, "write a report to `FILE`, by its extension a page (.html), .md, .json or .csv (repeatable)")
	fs.IntVar(&o.Worst, "worst", 10, "tensors to list, worst first")
	o.Limits.addFlags(fs)
	o.Gates.addFlags(fs)
	completeList(cmd, "formats", measure.KindNames()...)
	enum(cmd, "double-quant", "true", "false", "both")
	enum(cmd, "dtype", "auto", "bfloat16", "float16")
	enum(cmd, "towers", "keep", "quantize")
	return cmd
}

// options turns the flags into options, but for what depends on the source.
func (o *MeasureOptions) options() (measure.Options, error) {
	var opt measure.Options
	var kinds []measure.Kind
	for _, s := range o.Formats {
		k, err := measure.ParseKind(s)
		if err != nil {
			return opt, usagef("--formats: %w", err)
		}
		kinds = append(kinds, k)
	}
	double, ok := map[string][]bool{"true": {true}, "false": {false}, "both": {true, false}}[o.DoubleQuant]
	if !ok {
		return opt, usagef("--double-quant %q: want true, false or both", o.DoubleQuant)
	}
	var err error
	if opt.Formats, err = measure.Grid(kinds, o.BlockSizes, double); err != nil {
		return opt, &usageError{err}
	}
	if !(o.Sample >= 0 && o.Sample <= 1) {
		return opt, usagef("--sample %v: want a share between 0 and 1", o.Sample)
	}
	opt.Sample = o.Sample
	opt.Stream, err = o.Limits.stream()
	return opt, err
}

// plan are the options of the conversion whose weights are measured.
func (o *MeasureOptions) plan() (convert.Options, error) {
	var opt convert.Options
	var err error
	opt.DType = o.DType
	if opt.Only, err = compile("only", o.Only); err != nil {
		return opt, err
	}
	if opt.Skip, err = compile("skip", o.Skip); err != nil {
		return opt, err
	}
	switch o.Towers {
	case "keep":
	case "quantize":
		opt.Towers = true
	default:
		return opt, usagef("--towers %q: want keep or quantize", o.Towers)
	}
	if err := opt.Validate(); err != nil {
		return opt, &usageError{err}
	}
	return opt, nil
}

// runMeasure is the command without cobra.
func runMeasure(ctx context.Context, g *globals, o MeasureOptions) error {
	opt, err := o.options()
	if err != nil {
		return err
	}
	collectGarbage(opt.Stream.Memory)
	popt, err := o.plan()
	if err != nil {
		return err
	}
	gates, err := o.Gates.parse()
	if err != nil {
		return err
	}
	if err := checkReportNames(o.Reports); err != nil {
		return err
	}
	if o.Worst < 0 {
		return usagef("--worst %d: want 0 or more", o.Worst)
	}
	var weights, known atomic.Int64
	if o.Imatrix != "" {
		m, err := imatrix.Open(o.Imatrix)
		if err != nil {
			return err
		}
		opt.Weights = func(tensor string, columns int64) ([]float32, error) {
			v, err := m.Columns(tensor, columns)
			weights.Add(1)
			if v != nil {
				known.Add(1)
			}
			return v, err
		}
	}
	start := time.Now()
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := notAdapter(src); err != nil {
		return err
	}
	if err := keepSource(o.Reports, src); err != nil {
		return err
	}
	var r *report.Report
	if o.Quant != "" {
		r, err = o.written(ctx, g, src, opt)
	} else {
		r, err = o.formats(ctx, g, src, opt, popt)
	}
	if err != nil {
		return err
	}
	if n, k := weights.Load(), known.Load(); k < n {
		warnf(g.Stderr, "%s has %d of the %d weights measured; the activation-weighted error is of those alone", o.Imatrix, k, n)
	}
	r.Command, r.Tool, r.Source, r.Imatrix = "measure", "nf4kit "+versionText(), o.Src, o.Imatrix
	if err := writeReports(r, o.Reports); err != nil {
		return err
	}
	switch {
	case g.JSON:
		err = r.WriteJSON(g.Stdout)
	case !g.Quiet:
		o.print(g.Stdout, r, time.Since(start))
	}
	if err != nil {
		return err
	}
	return gates.check(r, o.Quant != "")
}

// formats measures formats on the source.
func (o *MeasureOptions) formats(ctx context.Context, g *globals, src *checkpoint.Source, opt measure.Options, popt convert.Options) (*report.Report, error) {
	popt.AllowIncomplete = true // what is there can be measured
	p, err := await(ctx, func() (*convert.Plan, error) { return convert.NewPlan(src, popt) })
	if err != nil {
		return nil, optionMistake(err)
	}
	g.warn(p.Warnings())
	opt.Run = p.RunDType()
	list := measure.Plan(p)
	var total int64
	for i := range list {
		total += list[i].Elems() * int64(list[i].Elem().Size())
	}
	if opt.Sample > 0 {
		total = int64(float64(total) * opt.Sample)
	}
	bar := newProgress(g.Stderr, "measuring", total, g.Quiet)
	opt.Progress = bar.advance
	tensors, err := measure.Run(ctx, list, opt)
	bar.finish()
	if err != nil {
		return nil, err
	}
	r := report.New(tensors)
	r.RunDType, r.Sample = strings.ToLower(p.RunDType().String()), opt.Sample
	return r, nil
}

// written measures a checkpoint that exists.
func (o *MeasureOptions) written(ctx context.Context, g *globals, src *checkpoint.Source, opt measure.Options) (*report.Report, error) {
	keep, err := selection(o.Only, o.Skip)
	if err != nil {
		return nil, err
	}
	quant, err := g.openSource(ctx, o.Quant)
	if err != nil {
		return nil, err
	}
	defer quant.Close()
	bar := newProgress(g.Stderr, "measuring", src.TensorBytes(), g.Quiet)
	opt.Progress = bar.advance
	opt.Keep = keep
	tensors, skipped, err := measure.Written(ctx, src, quant, opt)
	bar.finish()
	if err != nil {
		return nil, err
	}
	fold(skipped, func(measure.Skipped) bool { return true }, g.Verbose,
		func(s measure.Skipped) { warnf(g.Stderr, "%s is not measured: %s", s.Tensor, s.Reason) },
		func(_ measure.Skipped, n int) { warnf(g.Stderr, "%d more are not measured; -v lists them", n) })
	r := report.New(tensors)
	r.Against = o.Quant
	for i := range tensors {
		if f := tensors[i].Results[0].Format; f != tensors[0].Results[0].Format {
			r.Formats[0] = report.Format{Name: "as written"}
		}
	}
	return r, nil
}

// print is the terminal report: totals by format, the kinds, the layers as a line, and the worst tensors.
func (o *MeasureOptions) print(w io.Writer, r *report.Report, took time.Duration) {
	what := o.Src
	if r.Against != "" {
		what = r.Against + " against " + o.Src
	}
	escape.Fprintf(w, "%s: %d tensors, %s weights, in %s", what, r.Total.Tensors, countText(r.Total.Elements), durationText(took))
	if r.Total.Measured < r.Total.Elements {
		escape.Fprintf(w, "; a sample of %.1f %%, intervals of 95 %%", percent(r.Total.Measured, r.Total.Elements))
	}
	fmt.Fprint(w, "\n\n")
	if len(r.Formats) == 0 {
		return
	}
	cols := r.Columns()
	head := row("format")
	for _, c := range cols {
		head = append(head, c.Label)
	}
	line := func(name string, f *report.Figures) []any {
		cells := row(name)
		for _, text := range report.Texts(cols, f) {
			cells = append(cells, text)
		}
		return cells
	}
	t := newTable(w)
	t.AppendHeader(head)
	for i := range r.Formats {
		t.AppendRow(line(r.Formats[i].Name, &r.Total.Formats[i]))
	}
	alignRight(t, 2, len(head))
	t.Render()

	escape.Fprintf(w, "\nBy kind of module and the worst tensors, in %s:\n\n", r.Formats[0].Name)
	t = newTable(w)
	head[0] = "kind"
	t.AppendHeader(head)
	for i := range r.Kinds {
		t.AppendRow(line(fmt.Sprintf("%s (%d)", r.Kinds[i].Name, r.Kinds[i].Tensors), &r.Kinds[i].Formats[0]))
	}
	t.AppendSeparator()
	for _, x := range r.Worst(0, o.Worst) {
		t.AppendRow(line(shorten(x.Name, 44), &x.Formats[0]))
	}
	alignRight(t, 2, len(head))
	t.Render()
	if e := r.LayerErrors(0); len(e) > 1 && len(e) <= 256 {
		lo, hi := math.Inf(1), 0.0
		for _, v := range e {
			if !math.IsNaN(v) {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
		escape.Fprintf(w, "\nrel RMSE by layer, 0 to %d:  %.4f %s %.4f\n", len(e)-1, lo, report.Sparkline(e), hi)
	}
}
