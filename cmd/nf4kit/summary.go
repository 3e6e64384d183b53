package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nf4kit/nf4kit/internal/allocate"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/report"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// A summary is what convert prints at its end.
type summary struct {
	o      ConvertOptions
	p      *convert.Plan
	report *report.Report // without error figures, it has sizes alone
	took   time.Duration
}

func newSummary(o ConvertOptions, p *convert.Plan, results []convert.Result) (*summary, error) {
	r, err := report.FromConversion(converted(p, results))
	if err != nil {
		return nil, err
	}
	t := p.Stats()
	r.Tool, r.Source, r.Destination, r.RunDType = "nf4kit "+versionText(), o.Src, o.Dst, strings.ToLower(p.RunDType().String())
	r.Sizes = &report.Sizes{
		Parameters: t.Params, QuantParameters: t.QuantParams, QuantTensors: t.QuantCount, KeptTensors: t.KeptCount,
		SourceBytes: t.SrcBytes, OutputBytes: t.OutBytes,
		QuantBits: t.QuantBitsPerParam(), QuantCodeBits: t.CodeBitsPerParam(), BitsPerParameter: t.BitsPerParam(),
	}
	r.Storage = storageOf(o, results)
	return &summary{o: o, p: p, report: r}, nil
}

// storageOf sums what was changed in codes that are labelled as floats; nil if they are not, or nothing was written.
func storageOf(o ConvertOptions, results []convert.Result) *report.Storage {
	if s, err := bnb.ParseStorage(o.QuantStorage); err != nil || s == bnb.UInt8 || o.ExactStorage || results == nil {
		return nil
	}
	st := &report.Storage{DType: o.QuantStorage}
	var e2, added float64
	for i := range results {
		st.Changed += results[i].Freed.Codes
		added += results[i].Freed.Added
		e2 += results[i].Written.E2
	}
	if added < e2 {
		grown := 1/math.Sqrt(1-added/e2) - 1
		st.Added = &grown
	}
	return st
}

// converted pairs items with what was measured of them.
func converted(p *convert.Plan, results []convert.Result) []report.Converted {
	var out []report.Converted
	for i := range results {
		it, r := &p.Items()[i], &results[i]
		if r.Measured {
			out = append(out, report.Converted{Name: it.Name, Kind: it.Kind, Shape: it.Shape, Format: it.Spec,
				ReadTwice: r.ReadTwice, Written: r.Written, Other: r.Other, Weighted: r.Weighted})
		}
	}
	return out
}

// tell writes the reports and says what was done.
func (s *summary) tell(g *globals) error {
	if err := writeReports(s.report, s.o.Reports); err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(g.Stdout, s.json())
	}
	if g.Quiet {
		return nil
	}
	return s.print(g.Stdout, g.continued)
}

func (s *summary) print(w io.Writer, c convert.Continued) error {
	escape.Fprintf(w, "%s -> %s in %s (%s)\n\n", s.o.Src, s.o.Dst, durationText(s.took), s.speed(c))
	s.printSizes(w)
	if len(s.report.Formats) > 0 {
		fmt.Fprintln(w)
		s.printErrors(w)
	}
	fmt.Fprintln(w)
	s.printUse(w)
	return nil
}

func (s *summary) printSizes(w io.Writer) {
	line := func(label, format string, args ...any) {
		escape.Fprintf(w, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	model := "a bare file: names decide what is quantized"
	if m := s.p.Model(); m != nil {
		model = m.Type
		if m.Class != "" {
			model += " (" + m.Class + ")"
		}
	}
	line("model", "%s", model)
	line("format", "%s; the rest in %s", s.o.formatText(), strings.ToLower(s.p.RunDType().String()))
	for _, l := range s.report.Lines() {
		line(l[0], "%s", l[1])
	}
	if s.p.Stats().ExpertParams > 0 {
		line("experts", "%s", s.o.expertsText(s.p))
	}
	if s.o.allocation != nil {
		for _, l := range allocationLines(s.o.allocation) {
			line(l[0], "%s", l[1])
		}
	}
}

// expertsText says what share of a mixture of experts stays in 16 bits, and the command that packs it.
func (o *ConvertOptions) expertsText(p *convert.Plan) string {
	text := fmt.Sprintf("%.1f %% of the weights are routed experts and stay in 16 bits", percent(p.Stats().ExpertParams, p.Stats().Params))
	var ways []string
	if p.UnslothPacks() {
		ways = append(ways, o.command("-unsloth", "--target", "unsloth")+" packs them for Unsloth")
	}
	if p.Stats().PackableExperts > 0 {
		ways = append(ways, o.command("-experts", "--moe", "per-expert", "--target", "transformers4", "--target", "vllm")+" for transformers 4 and vLLM")
	}
	if len(ways) == 0 {
		return text + ": no loader is known to take them packed"
	}
	return text + "; " + strings.Join(ways, ", ")
}

// command is this conversion with other targets, into a directory beside DST.
func (o *ConvertOptions) command(suffix string, flags ...string) string {
	words := []string{"nf4kit", "convert", o.Src, strings.TrimRight(o.Dst, "/") + suffix}
	for _, name := range outputFlags {
		value, given := o.settings[name]
		if !given || name == "target" || name == "moe" {
			continue
		}
		for v := range strings.SplitSeq(value, "\n") {
			words = append(words, "--"+name+"="+v)
		}
	}
	for _, f := range []struct{ name, value string }{{"scale", o.Scale}, {"quality", o.Quality}, {"imatrix", o.Imatrix}, {"activations", o.Activations}} {
		if f.value != "" {
			words = append(words, "--"+f.name+"="+f.value)
		}
	}
	for i, w := range words {
		words[i] = shellWord(w)
	}
	return strings.Join(append(words, flags...), " ")
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[-+.,:/@%_=0-9A-Za-z]+$`)

// shellWord quotes a word of a command line.
func shellWord(w string) string {
	if plainWord.MatchString(w) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// formatText says what the flags ask for; rules may differ by tensor.
func (o *ConvertOptions) formatText() string {
	text := fmt.Sprintf("%s, block size %d, ", strings.ToUpper(o.Type), o.BlockSize)
	if o.DoubleQuant {
		text += "double quantization"
	} else {
		text += "no double quantization"
	}
	if scale, err := o.choose(); err == nil && scale != bnb.AbsMax {
		text += fmt.Sprintf(", scales by %v", scale)
		if o.Imatrix != "" || o.Activations != "" {
			text += " weighted by the inputs"
		}
	}
	if len(o.Rules) > 0 {
		text += " (rules may change it by tensor)"
	}
	return text
}

// printErrors is the table of kinds, what was written beside the other type.
func (s *summary) printErrors(w io.Writer) {
	r := s.report
	// In a mixture of types the names say what it is; else the type alone, for all the rest is the same.
	names := make([]string, len(r.Formats))
	for i, f := range r.Formats {
		names[i] = strings.ToUpper(cmp.Or(f.Kind, f.Name))
	}
	with := "the same blocks and scales"
	if r.Gain != nil {
		with = "the same blocks, before double quantization"
	}
	if f, err := bnb.ParseFormat(r.Formats[0].Name); err == nil && f.Scale != bnb.AbsMax {
		names[0], names[1] = fmt.Sprintf("%s %v", names[0], f.Scale), names[1]+" absmax"
	}
	escape.Fprintf(w, "Reconstruction error of what was written, and of %s with %s:\n\n", names[1], with)
	cols := r.Columns()
	bits, errs := cols[:1], cols[1:] // the bits are the same in both
	t := newTable(w)
	over, head := row("", "", "", ""), row("kind", "tensors", "weights", bits[0].Label)
	for _, name := range names {
		for i, c := range errs {
			if i > 0 {
				name = ""
			}
			over, head = append(over, name), append(head, c.Label)
		}
	}
	t.AppendHeader(over)
	t.AppendHeader(head)
	line := func(r *report.Row) []any {
		cells := row(r.Name, r.Tensors, countText(r.Elements), bits[0].Text(&r.Formats[0]))
		for i := range r.Formats {
			for _, text := range report.Texts(errs, &r.Formats[i]) {
				cells = append(cells, text)
			}
		}
		return cells
	}
	for i := range r.Kinds {
		t.AppendRow(line(&r.Kinds[i]))
	}
	t.AppendSeparator()
	t.AppendRow(line(&r.Total))
	alignRight(t, 2, len(head))
	var least []int // the last figures of both types first
	for i := len(errs); i > 1; i-- {
		least = append(least, 4+len(errs)+i, 4+i)
	}
	t.drops(append(least, 3, 2)...)
	t.Render()
	s.printGain(w)
	twice := 0
	for i := range r.Tensors {
		if r.Tensors[i].ReadTwice {
			twice++
		}
	}
	if twice > 0 {
		escape.Fprintf(w, "%d tensors did not fit --max-memory and were read a second time for these figures.\n", twice)
	}
}

// printGain says how much better than absmax the scales, and codes, are that were chosen.
func (s *summary) printGain(w io.Writer) {
	g := s.report.Gain
	if g == nil || g.Weights == nil {
		return
	}
	than := func(gain float64) string {
		if gain < 0 {
			return fmt.Sprintf("%.1f %% above", -100*gain)
		}
		return fmt.Sprintf("%.1f %% below", 100*gain)
	}
	escape.Fprintf(w, "Against absmax, the squared error of the weights is %s", than(*g.Weights))
	if g.Outputs != nil {
		escape.Fprintf(w, ", that of the layers' outputs, as far as the inputs are known, %s", than(*g.Outputs))
	}
	fmt.Fprintln(w, ".")
}

// printUse tells how to load the result.
func (s *summary) printUse(w io.Writer) {
	if s.p.Config() == nil {
		escape.Fprintf(w, "Written without config.json, since the source has none: put %s beside the model's own\nfiles and add the quantization_config of bitsandbytes to its config.json to load it.\n",
			strings.TrimRight(s.o.Dst, "/")+"/"+s.p.Shards()[0].Name)
		return
	}
	if s.o.to.store != nil {
		escape.Fprintf(w, "Loaders take a directory of their own machine: copy what lies at %s there, with the store's own tools or rclone.\n", s.o.to.name)
		return
	}
	pkg, class, fromTask := s.p.LoadClass()
	switch pkg {
	case "diffusers":
		escape.Fprintf(w, "Load it and give it to the pipeline in place of its own (tried with diffusers 0.42):\n\n")
		printPython(w, escape.Sprintf("    import torch\n    from diffusers import %[1]s\n    model = %[1]s.from_pretrained(%[2]q, torch_dtype=torch.%[3]s)\n",
			class, s.o.Dst, s.p.TorchDType()))
		return
	case "unsloth":
		escape.Fprintf(w, "Load it with Unsloth, which alone reads these experts (its loading was tried with unsloth_zoo 2026.10.9):\n\n")
		printPython(w, escape.Sprintf("    from unsloth import %[1]s\n    model, tokenizer = %[1]s.from_pretrained(%[2]q, load_in_4bit=True)\n", class, s.o.Dst))
		return
	}
	escape.Fprintf(w, "Load it (transformers 4.55 or newer, of 5.x 5.6 or newer; bitsandbytes 0.46.1 or newer):\n\n")
	printPython(w, escape.Sprintf(`    from transformers import %[1]s
    model = %[1]s.from_pretrained(%[2]q, device_map="auto")
`, class, s.o.Dst))
	if fromTask {
		fmt.Fprint(w, "\nand for QLoRA:\n\n")
		printPython(w, `    from peft import prepare_model_for_kbit_training
    model = prepare_model_for_kbit_training(model)
`)
	}
}

// card makes the README.md of the output: the front matter that the hub reads,
// and the error table. A bare file gets none.
func (s *summary) card(src *checkpoint.Source) (map[string][]byte, error) {
	if s.p.Config() == nil {
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
	base := cmp.Or(src.Repo, hubName(src.Dir))
	name := path.Base(base)
	switch {
	case base != "":
	case !src.IsLocal():
		name = path.Base(src.Dir)
	default:
		dir, err := filepath.Abs(src.Dir)
		if err != nil {
			return nil, err
		}
		name = filepath.Base(dir)
	}
	c := report.Card{
		Name: name + "-" + strings.ToLower(s.o.Type), BaseModel: base, Tags: []string{strings.ToLower(s.o.Type)},
		Format: s.o.formatText(), Bits: s.report.Sizes.BitsPerParameter,
		Saved: s.report.Sizes.Saved(), Package: pkg, Class: class, DType: s.p.TorchDType(),
	}
	raw, err := report.ModelCard(old, c, s.report)
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

// summaryJSON is the schema of convert --json. The figures have the names that they have in a report.
type summaryJSON struct {
	Schema      string `json:"schema"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	DryRun      bool   `json:"dry_run"`
	ModelType   string `json:"model_type,omitempty"`
	RunDType    string `json:"run_dtype"`
	report.Sizes
	Seconds     float64           `json:"seconds,omitempty"`
	SkipModules []string          `json:"llm_int8_skip_modules"`
	Files       []fileJSON        `json:"files"`
	Tensors     []planTensorJSON  `json:"tensors"`
	Formats     []report.Format   `json:"formats,omitempty"`
	Gain        *report.Gain      `json:"gain,omitempty"`
	Storage     *report.Storage   `json:"storage,omitempty"`
	Allocation  *allocate.Outcome `json:"allocation,omitempty"`
	Total       *report.Row       `json:"total,omitempty"`
	Kinds       []report.Row      `json:"kinds,omitempty"`
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
	r := s.report
	out := summaryJSON{
		Schema: "nf4kit.convert/2", Source: r.Source, Destination: r.Destination, DryRun: s.o.DryRun, RunDType: r.RunDType, Sizes: *r.Sizes,
		Seconds: s.took.Seconds(), SkipModules: s.p.SkipList(), Warnings: s.p.Warnings(), Notices: s.p.Notices(),
		Allocation: s.o.allocation, Storage: r.Storage,
	}
	if len(r.Formats) > 0 {
		out.Formats, out.Total, out.Kinds, out.Gain = r.Formats, &r.Total, r.Kinds, r.Gain
	}
	if s.p.Model() != nil {
		out.ModelType = s.p.Model().Type
	}
	for _, sh := range s.p.Shards() {
		out.Files = append(out.Files, fileJSON{sh.Name, sh.Layout.Size()})
	}
	for i := range s.p.Items() {
		it := &s.p.Items()[i]
		to := it.Spec.String()
		if !it.Quantize {
			to = it.Out.String()
		}
		out.Tensors = append(out.Tensors, planTensorJSON{Name: it.Name, Shape: it.Shape, From: it.DType.String(), To: to,
			File: s.p.Shards()[it.Shard].Name, Bytes: it.OutBytes, KeptWhy: it.Reason, Quantize: it.Quantize})
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
