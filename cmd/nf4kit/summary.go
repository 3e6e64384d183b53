package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/quality"
	"github.com/nf4kit/nf4kit/internal/report"
)

// A summary is what convert prints at its end.
type summary struct {
	o       ConvertOptions
	p       *convert.Plan
	tensors []quality.Tensor // nil without error figures
	took    time.Duration
}

func newSummary(o ConvertOptions, p *convert.Plan, results []convert.Result, took time.Duration) *summary {
	return &summary{o, p, qualityTensors(p, results), took}
}

func (s *summary) print(w io.Writer) error {
	escape.Fprintf(w, "%s -> %s in %s (%s/s)\n\n", s.o.Src, s.o.Dst, durationText(s.took),
		bytesText(int64(float64(s.p.Totals.SrcBytes)/max(s.took.Seconds(), 1e-9))))
	s.printSizes(w)
	if s.tensors != nil {
		fmt.Fprintln(w)
		s.printErrors(w)
	}
	fmt.Fprintln(w)
	s.printUse(w)
	return nil
}

func (s *summary) printSizes(w io.Writer) {
	t := s.p.Totals
	if t.ExpertParams > 0 {
		escape.Fprintf(w, "  %.1f %% of the weights are routed experts and stay in 16 bits", percent(t.ExpertParams, t.Params))
		if t.PackableExperts > 0 {
			fmt.Fprint(w, ", as transformers 5 needs;\n  --moe per-expert with --target transformers4 or vllm quantizes them, for those loaders and Unsloth")
		} else {
			fmt.Fprint(w, ": they are stored\n  as one tensor a layer, which no loader takes packed")
		}
		fmt.Fprint(w, "\n\n")
	}
	line := func(label, format string, args ...any) {
		escape.Fprintf(w, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	model := "a bare file: names decide what is quantized"
	if m := s.p.Model; m != nil {
		model = m.Type
		if m.Class != "" {
			model += " (" + m.Class + ")"
		}
	}
	line("model", "%s", model)
	line("format", "%s; the rest in %s", s.o.formatText(), strings.ToLower(s.p.RunDType.String()))
	line("parameters", "%s, of them %s (%.1f %%) quantized in %d tensors; %d tensors kept",
		countText(t.Params), countText(t.QuantParams), percent(t.QuantParams, t.Params), t.QuantCount, t.KeptCount)
	line("bits/param", "%.3f in the quantized part (%.3f codes and constants, the rest tables), %.3f in all",
		t.QuantBitsPerParam(), t.CodeBitsPerParam(), t.BitsPerParam())
	line("size", "%s, was %s: %.1f %% saved", bytesText(t.OutBytes), bytesText(t.SrcBytes), 100-percent(t.OutBytes, t.SrcBytes))
}

// formatText says what the flags ask for; rules may differ by tensor.
func (o *ConvertOptions) formatText() string {
	text := fmt.Sprintf("%s, block size %d, ", strings.ToUpper(o.Type), o.BlockSize)
	if o.DoubleQuant {
		text += "double quantization"
	} else {
		text += "no double quantization"
	}
	if len(o.Rules) > 0 {
		text += " (rules may change it by tensor)"
	}
	return text
}

func (s *summary) printErrors(w io.Writer) {
	sum := quality.Summarize(s.tensors)
	name := func(format, fallback string) string {
		if format == "" {
			return fallback
		}
		return strings.ToUpper(format[:3])
	}
	a, b := name(sum.Format, "written"), name(sum.Versus, "other type")
	escape.Fprintf(w, "Reconstruction error of what was written, and of %s with the same blocks and scales:\n\n", b)
	t := newTable(w)
	t.AppendHeader(row("", "", "", a, "", "", "", "", b, "", "", "", ""))
	t.AppendHeader(row("kind", "tensors", "weights", "rel RMSE", "SQNR dB", "mean |e|", "max |e|", "cosine",
		"rel RMSE", "SQNR dB", "mean |e|", "max |e|", "cosine"))
	line := func(r quality.Row) []any {
		cells := row(r.Name, r.Tensors, countText(r.Written.Elements))
		for _, f := range []quality.Figures{r.Written, r.Other} {
			cells = append(cells, figureCells(f)...)
		}
		return cells
	}
	for _, k := range sum.Kinds {
		t.AppendRow(line(k))
	}
	t.AppendSeparator()
	t.AppendRow(line(sum.Total))
	alignRight(t, 2, 13)
	t.Render()
	twice := 0
	for i := range s.tensors {
		if s.tensors[i].ReadTwice {
			twice++
		}
	}
	if twice > 0 {
		escape.Fprintf(w, "%d tensors did not fit --max-memory and were read a second time for these figures.\n", twice)
	}
}

func figureCells(f quality.Figures) []any {
	if f.ZeroNorm {
		return row("-", "-", sci(f.MeanAbs), sci(f.MaxAbs), "-")
	}
	sqnr := "exact"
	if !math.IsInf(f.SQNR, 0) {
		sqnr = fmt.Sprintf("%.2f", f.SQNR)
	}
	return row(fmt.Sprintf("%.4f", f.RelRMSE), sqnr, sci(f.MeanAbs), sci(f.MaxAbs), fmt.Sprintf("%.5f", f.Cosine))
}

func sci(v float64) string { return fmt.Sprintf("%.2e", v) }

// printUse tells how to load the result.
func (s *summary) printUse(w io.Writer) {
	if s.p.Config == nil {
		escape.Fprintf(w, "Written without config.json, since the source has none: put %s beside the model's own\nfiles and add the quantization_config of bitsandbytes to its config.json to load it.\n",
			filepath.Join(s.o.Dst, s.p.Shards[0].Name))
		return
	}
	pkg, class, fromTask := s.p.LoadClass()
	if pkg == "diffusers" {
		escape.Fprintf(w, `Load it and give it to the pipeline in place of its own (tried with diffusers 0.42):

    import torch
    from diffusers import %[1]s
    model = %[1]s.from_pretrained(%[2]q, torch_dtype=torch.%[3]s)
`, class, s.o.Dst, s.p.TorchDType())
		return
	}
	escape.Fprintf(w, `Load it (transformers 4.55 or newer, of 5.x 5.6 or newer; bitsandbytes 0.46.1 or newer):

    from transformers import %[1]s
    model = %[1]s.from_pretrained(%[2]q, device_map="auto")
`, class, s.o.Dst)
	if fromTask {
		fmt.Fprint(w, `
and for QLoRA:

    from peft import prepare_model_for_kbit_training
    model = prepare_model_for_kbit_training(model)
`)
	}
}

// card makes the README.md of the output: the front matter that the hub reads,
// and the error table. A bare file gets none.
func (s *summary) card(src *checkpoint.Source) (map[string][]byte, error) {
	if s.p.Config == nil {
		return nil, nil
	}
	old, err := src.ReadFile("README.md", checkpoint.MaxConfigSize)
	if err != nil {
		var in *checkpoint.InputError
		if !errors.As(err, &in) {
			return nil, err
		}
		old = nil // too large, or no regular file: a card without what it said
	}
	pkg, class, _ := s.p.LoadClass()
	// Nothing in it comes from DST: the same source and flags give the same bytes.
	base := hubName(src.Dir)
	name := path.Base(base)
	if base == "" {
		dir, err := filepath.Abs(src.Dir)
		if err != nil {
			return nil, err
		}
		name = filepath.Base(dir)
	}
	c := report.Card{
		Name: name + "-" + strings.ToLower(s.o.Type), BaseModel: base, Tags: []string{strings.ToLower(s.o.Type)},
		Format: s.o.formatText(), Bits: s.p.Totals.BitsPerParam(),
		Saved: 100 - percent(s.p.Totals.OutBytes, s.p.Totals.SrcBytes), Package: pkg, Class: class, DType: s.p.TorchDType(),
	}
	r := report.FromConversion("nf4kit "+versionText(), s.o.Src, strings.ToLower(s.p.RunDType.String()), s.tensors)
	raw, err := report.ModelCard(old, c, r)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"README.md": raw}, nil
}

// hubName is org/name for a directory of a hub cache, models--org--name, else "".
func hubName(dir string) string {
	for part := range strings.SplitSeq(filepath.ToSlash(dir), "/") {
		if rest, ok := strings.CutPrefix(part, "models--"); ok {
			if org, name, ok := strings.Cut(rest, "--"); ok {
				return org + "/" + name
			}
		}
	}
	return ""
}

// writeReports writes the files of --report.
func (s *summary) writeReports(names []string) error {
	if len(names) == 0 {
		return nil
	}
	tool, run := "nf4kit "+versionText(), strings.ToLower(s.p.RunDType.String())
	r := quality.NewReport(tool, s.o.Src, run, s.tensors)
	page := report.FromConversion(tool, s.o.Src, run, s.tensors)
	for _, name := range names {
		fill := map[string]func(io.Writer) error{
			".json": r.WriteJSON, ".csv": r.WriteCSV, ".html": page.WriteHTML, ".md": page.WriteMarkdown,
		}[strings.ToLower(filepath.Ext(name))]
		if err := createFile(name, fill); err != nil {
			return fmt.Errorf("write report %s: %w", name, err)
		}
	}
	return nil
}

// summaryJSON is the schema of convert --json.
type summaryJSON struct {
	Schema      string            `json:"schema"`
	Source      string            `json:"source"`
	Destination string            `json:"destination"`
	DryRun      bool              `json:"dry_run"`
	ModelType   string            `json:"model_type,omitempty"`
	RunDType    string            `json:"run_dtype"`
	Parameters  int64             `json:"parameters"`
	Quantized   int64             `json:"quantized_parameters"`
	QuantCount  int               `json:"quantized_tensors"`
	KeptCount   int               `json:"kept_tensors"`
	SourceBytes int64             `json:"source_bytes"`
	OutputBytes int64             `json:"output_bytes"`
	BitsQuant   float64           `json:"bits_per_parameter_quantized"`
	BitsCodes   float64           `json:"bits_per_parameter_codes_and_constants"`
	BitsAll     float64           `json:"bits_per_parameter"`
	Seconds     float64           `json:"seconds,omitempty"`
	SkipModules []string          `json:"llm_int8_skip_modules"`
	Files       []fileJSON        `json:"files"`
	Tensors     []planTensorJSON  `json:"tensors"`
	Error       *quality.RowJSON  `json:"error,omitempty"`
	ErrorKinds  []quality.RowJSON `json:"error_by_kind,omitempty"`
	Warnings    []string          `json:"warnings"`
	Notices     []string          `json:"notices"`
}

type fileJSON struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

type planTensorJSON struct {
	Name     string  `json:"name"`
	Shape    []int64 `json:"shape"`
	From     string  `json:"from"`
	To       string  `json:"to"`
	File     string  `json:"file"`
	Bytes    int64   `json:"bytes"`
	KeptWhy  string  `json:"kept_because,omitempty"`
	Quantize bool    `json:"quantized"`
}

func (s *summary) json() summaryJSON {
	t := s.p.Totals
	out := summaryJSON{
		Schema: "nf4kit.convert/1", Source: s.o.Src, Destination: s.o.Dst, DryRun: s.o.DryRun,
		RunDType: strings.ToLower(s.p.RunDType.String()), Parameters: t.Params, Quantized: t.QuantParams,
		QuantCount: t.QuantCount, KeptCount: t.KeptCount, SourceBytes: t.SrcBytes, OutputBytes: t.OutBytes,
		BitsQuant: t.QuantBitsPerParam(), BitsCodes: t.CodeBitsPerParam(), BitsAll: t.BitsPerParam(),
		Seconds: s.took.Seconds(), SkipModules: s.p.SkipList, Warnings: s.p.Warnings, Notices: s.p.Notices,
	}
	if s.p.Model != nil {
		out.ModelType = s.p.Model.Type
	}
	for _, sh := range s.p.Shards {
		out.Files = append(out.Files, fileJSON{sh.Name, sh.Layout.Size()})
	}
	for i := range s.p.Items {
		it := &s.p.Items[i]
		to := it.Spec.String()
		if !it.Quantize {
			to = it.Out.String()
		}
		out.Tensors = append(out.Tensors, planTensorJSON{Name: it.Name, Shape: it.Shape, From: it.DType.String(), To: to,
			File: s.p.Shards[it.Shard].Name, Bytes: it.OutBytes, KeptWhy: it.Reason, Quantize: it.Quantize})
	}
	if s.tensors != nil {
		sum := quality.Summarize(s.tensors)
		total := sum.Total.JSON()
		out.Error = &total
		for _, k := range sum.Kinds {
			out.ErrorKinds = append(out.ErrorKinds, k.JSON())
		}
	}
	return out
}

func percent(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return 100 * float64(a) / float64(b)
}

func durationText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
