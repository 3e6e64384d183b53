package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/evaluate"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/report"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/tokens"
)

// EvalOptions are the arguments and flags of eval.
type EvalOptions struct {
	Src         string
	Quant       []string
	Text        TextOptions
	Context     int
	Stride      int
	Windows     string
	MaxTokens   int
	MaxKL       float64
	MaxPPLRatio float64
	Reports     []string
	DryRun      bool
	Limits
}

// TextOptions are the flags that name what a model reads.
type TextOptions struct {
	Text, Tokens string
}

func (o *TextOptions) addFlags(fs *pflag.FlagSet, verb string) {
	fs.StringVar(&o.Text, "text", "", verb+" the text in `FILE`, by the tokenizer.json of SRC")
	fs.StringVar(&o.Tokens, "tokens", "", verb+" the ids in `FILE`: a JSON array, .npy, or .safetensors with a tensor \"tokens\", of one or two dimensions")
}

func (o *TextOptions) check() error {
	if (o.Text == "") == (o.Tokens == "") {
		return usagef("--text FILE or --tokens FILE: want one of them")
	}
	return nil
}

// maxText is the largest text that is read.
const maxText = 256 << 20

// read gives the ids of the text for a model of vocab tokens, and of a text the id that it begins with, if the tokenizer puts one there.
func (o *TextOptions) read(src *checkpoint.Source, vocab int, special bool) (ids [][]int32, begin *int32, err error) {
	if o.Tokens != "" {
		ids, err = tokens.ReadIDs(o.Tokens, vocab)
		return ids, nil, err
	}
	f, err := os.Open(o.Text)
	if err != nil {
		return nil, nil, fmt.Errorf("open text: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read text: %w", err)
	}
	if len(text) > maxText {
		return nil, nil, usagef("--text %s: it has more than %d bytes; a part of it will do", o.Text, maxText)
	}
	raw, err := src.ReadFile(tokens.FileName, tokens.MaxFile)
	if err == nil && raw == nil {
		return nil, nil, &checkpoint.InputError{File: src.Path, Expected: "a " + tokens.FileName, Found: "none",
			Hint: "put the tokenizer.json of the model there, or give ids: --tokens FILE"}
	}
	if err != nil {
		return nil, nil, err
	}
	t, err := tokens.Parse(raw, tokens.FileName)
	if err != nil {
		return nil, nil, err
	}
	one, err := t.Encode(string(text))
	if err != nil {
		return nil, nil, usagef("--text %s: %w", o.Text, err)
	}
	prefix, suffix := t.Special()
	if len(prefix) > 0 {
		begin = &prefix[0]
	}
	if special {
		one = append(append(append([]int32(nil), prefix...), one...), suffix...)
	}
	for i, id := range one {
		if int(id) >= vocab {
			return nil, nil, &checkpoint.InputError{File: src.Path, Tensor: tokens.FileName, Expected: fmt.Sprintf("ids below %d, the vocabulary of the model", vocab),
				Found: fmt.Sprintf("%d, of token %d of the text", id, i), Hint: "is the tokenizer of this model?"}
		}
	}
	return [][]int32{one}, begin, nil
}

func newEvalCommand(g *globals) *cobra.Command {
	var o EvalOptions
	cmd := &cobra.Command{
		Use:        "eval SRC [QUANT...]",
		SuggestFor: []string{"perplexity", "ppl", "evaluate", "kl"},
		Short:      "Measure perplexity, divergence from the source and output errors, without Python",
		Long: `eval runs SRC, and each QUANT that was made of it, on a text and reports

  perplexity    exp of the mean negative log likelihood of a token, with its standard error
  to source     the perplexity over that of SRC; its standard error is that of paired tokens
  KL            KL(SRC || QUANT) of the predicted distributions in nats: mean and 99 % quantile
  same top-1    how often the most likely token is that of SRC

and where the difference comes from: by position in the window, the error of the hidden
states after each layer, and of the outputs of each Linear for the inputs that it has in SRC.
It computes in float32 from what is stored: bf16, f16, f32, FP8, 4 bits with or without
double quantization, decoded as their loaders do. The checkpoints go through the model one
layer after the other together; hidden states beyond a quarter of --max-memory go to a file
in the system's directory for temporary files.

Models are decoder-only language models in the families that docs/forward.md lists; another
is refused by name.

Windows are by default those of transformers' guide to perplexity: --context tokens long
(the model's, 2048 at most), each --stride after the last, and of each only what the one
before has not scored is scored; the first token of a window is predicted by nothing. The text
begins with the special tokens that the tokenizer puts there. --windows llama.cpp has those
of llama-perplexity: 512 tokens, none twice, the first half not scored, and the tokenizer's
first token in place of the first of each; what is left at the end is left out. With --tokens
the ids are taken as they are, each row by itself.

--max-kl and --max-ppl-ratio make the command exit with 4 if a QUANT is above.`,
		Example: `  nf4kit eval Llama-3.2-1B Llama-3.2-1B-nf4 --text wiki.test.raw
  nf4kit eval Llama-3.2-1B Llama-3.2-1B-nf4 --text wiki.test.raw --max-tokens 20000 --max-kl 0.05
  nf4kit eval Llama-3.2-1B nf4 fp4 --tokens ids.npy --context 512 --report eval.html`,
		Args: atLeast("SRC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Quant = args[0], args[1:]
			return runEval(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	o.Text.addFlags(fs, "score")
	fs.IntVar(&o.Context, "context", 0, "tokens of a window; 0 is what the model has positions for, 2048 at most; 512 for llama.cpp")
	fs.IntVar(&o.Stride, "stride", 0, "tokens from one window to the next; 0 is --context")
	fs.StringVar(&o.Windows, "windows", "transformers", "how the text is cut: transformers or llama.cpp")
	fs.IntVar(&o.MaxTokens, "max-tokens", 0, "score the first tokens of the text alone, so many; 0 is all")
	fs.Float64Var(&o.MaxKL, "max-kl", 0, "fail if a QUANT's mean KL is above `X`; 0 is no limit")
	fs.Float64Var(&o.MaxPPLRatio, "max-ppl-ratio", 0, "fail if a QUANT's perplexity over that of SRC is above `X`; 0 is no limit")
	fs.StringArrayVar(&o.Reports, "report", nil, "write a report to `FILE`, by its extension a page (.html), .md, .json or .csv (repeatable)")
	fs.BoolVar(&o.DryRun, "dry-run", false, "time a few tokens, and print how long it would take and what it would hold")
	o.Limits.addFlags(fs)
	fs.Lookup("max-memory").DefValue = "2GiB"
	o.Limits.MaxMemory = "2GiB"
	enum(cmd, "windows", "transformers", "llama.cpp")
	return cmd
}

// check refuses flags that do not go together.
func (o *EvalOptions) check() error {
	if err := o.Text.check(); err != nil {
		return err
	}
	switch {
	case o.Windows != "transformers" && o.Windows != "llama.cpp":
		return usagef("--windows %q: want transformers or llama.cpp", o.Windows)
	case o.Windows == "llama.cpp" && o.Stride != 0:
		return usagef("--stride %d: the windows of llama.cpp have none", o.Stride)
	case o.Context < 0 || o.Context == 1:
		return usagef("--context %d: want 2 or more", o.Context)
	case o.Stride < 0:
		return usagef("--stride %d: want 1 or more", o.Stride)
	case o.MaxTokens < 0 || o.MaxTokens == 1:
		return usagef("--max-tokens %d: want 2 or more", o.MaxTokens)
	case !(o.MaxKL >= 0) || !(o.MaxPPLRatio >= 0):
		return usagef("--max-kl %v, --max-ppl-ratio %v: want 0 or more", o.MaxKL, o.MaxPPLRatio)
	case (o.MaxKL > 0 || o.MaxPPLRatio > 0) && len(o.Quant) == 0:
		return usagef("--max-kl and --max-ppl-ratio are limits on a QUANT: there is none")
	}
	return checkReportNames(o.Reports)
}

// cutting is how the text is cut for a model of so many positions.
func (o *EvalOptions) cutting(positions int, begin *int32) (evaluate.Cutting, error) {
	c := evaluate.Cutting{Context: o.Context, Stride: o.Stride, Llama: o.Windows == "llama.cpp", Begin: begin}
	if c.Context == 0 {
		c.Context = 2048
		if c.Llama {
			c.Context = 512
		}
		if positions > 1 {
			c.Context = min(c.Context, positions)
		}
	}
	if c.Llama {
		return c, nil
	}
	c.Stride = cmp.Or(c.Stride, c.Context)
	if c.Stride > c.Context {
		return c, usagef("--stride %d: want at most --context, %d", c.Stride, c.Context)
	}
	return c, nil
}

// decoder opens a checkpoint for the forward pass.
func (g *globals) decoder(ctx context.Context, path string, opt forward.Options) (*checkpoint.Source, evaluate.Model, error) {
	src, err := g.open(ctx, path)
	if err != nil {
		return nil, evaluate.Model{}, err
	}
	m, err := newDecoder(ctx, src, path, opt)
	if err != nil {
		src.Close()
	}
	return src, m, err
}

// runEval is the command without cobra.
func runEval(ctx context.Context, g *globals, o EvalOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	limits, err := o.Limits.stream()
	if err != nil {
		return err
	}
	collectGarbage(limits.Memory)
	opt := forward.Options{Jobs: limits.Workers(), MaxMemory: limits.Memory / int64(1+len(o.Quant))}
	var models []evaluate.Model
	var src *checkpoint.Source
	for i, path := range append([]string{o.Src}, o.Quant...) {
		s, m, err := g.decoder(ctx, path, opt)
		if err != nil {
			return err
		}
		defer s.Close()
		if i == 0 {
			src = s
		}
		models = append(models, m)
	}
	if err := evaluate.Same(models); err != nil {
		return err
	}
	if err := keepSource(o.Reports, src); err != nil {
		return err
	}
	windows, cutting, err := o.windows(g, src, &models[0])
	if err != nil {
		return err
	}
	took, err := evaluate.Estimate(ctx, models, windows, limits.Workers())
	if err != nil {
		return err
	}
	if o.DryRun {
		return o.printEstimate(g, models, windows, cutting, took, limits)
	}
	if !g.Quiet && took >= time.Minute {
		noticef(g.Stderr, "%s tokens in %d windows, by %d checkpoints: about %s", countText(int64(evaluate.Tokens(windows))), len(windows), len(models), durationText(took))
	}
	start := time.Now()
	bar := newSteps(g.Stderr, "evaluating", evaluate.Work(models, windows), g.Quiet)
	result, err := evaluate.Run(ctx, models, windows, evaluate.Options{Jobs: limits.Workers(), MaxMemory: limits.Memory, Progress: bar.advance})
	bar.finish()
	if err != nil {
		return err
	}
	result.Text, result.Tokens, result.Cutting = o.Text.Text, o.Text.Tokens, cutting
	result.Seconds, result.Estimate = time.Since(start).Seconds(), took.Seconds()
	r := report.New(nil)
	r.Command, r.Tool, r.Source, r.Evaluation = "eval", "nf4kit "+versionText(), o.Src, &report.Evaluation{Result: *result}
	if err := writeReports(r, o.Reports); err != nil {
		return err
	}
	switch {
	case g.JSON:
		err = r.WriteJSON(g.Stdout)
	case !g.Quiet:
		o.print(g, r.Evaluation)
	}
	if err != nil {
		return err
	}
	return o.gates(result)
}

// windows cuts the text.
func (o *EvalOptions) windows(g *globals, src *checkpoint.Source, m *evaluate.Model) ([]evaluate.Window, evaluate.Cutting, error) {
	ids, begin, err := o.Text.read(src, m.Vocab(), o.Windows == "transformers")
	if err != nil {
		return nil, evaluate.Cutting{}, err
	}
	if left := o.MaxTokens; left > 0 {
		for i := range ids {
			ids[i] = ids[i][:min(len(ids[i]), left)]
			left -= len(ids[i])
		}
	}
	cutting, err := o.cutting(m.Context(), begin)
	if err != nil {
		return nil, cutting, err
	}
	windows, err := cutting.Cut(ids)
	if err != nil {
		return nil, cutting, &usageError{err}
	}
	if len(windows) == 0 {
		n := 0
		for _, row := range ids {
			n += len(row)
		}
		return nil, cutting, usagef("%s%s: %d tokens are too few for a window of %d", o.Text.Text, o.Text.Tokens, n, cutting.Context)
	}
	if p := m.Context(); p > 0 && cutting.Context-1 > p {
		warnf(g.Stderr, "--context %d: %s was made for %d positions", cutting.Context, o.Src, p)
	}
	return windows, cutting, nil
}

// printEstimate is --dry-run.
func (o *EvalOptions) printEstimate(g *globals, models []evaluate.Model, windows []evaluate.Window, cutting evaluate.Cutting, took time.Duration, limits stream.Options) error {
	var states int64
	for i := range models {
		states += 4 * int64(evaluate.Tokens(windows)) * int64(models[i].Width())
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.eval-estimate/1", "windows": len(windows), "cutting": cutting, "tokens": evaluate.Tokens(windows),
			"scored_tokens": evaluate.Scored(windows), "checkpoints": len(models), "estimated_seconds": took.Seconds(), "max_memory": limits.Memory, "hidden_state_bytes": states})
	}
	escape.Fprintf(g.Stdout, "%s and %d made of it (dry run: nothing is evaluated)\n\n", o.Src, len(o.Quant))
	escape.Fprintf(g.Stdout, "  windows  %d, of %d tokens; %s tokens scored\n", len(windows), cutting.Context, countText(int64(evaluate.Scored(windows))))
	escape.Fprintf(g.Stdout, "  time     about %s, by the first layer of each on %d workers\n", durationText(took), limits.Workers())
	escape.Fprintf(g.Stdout, "  memory   %s, and 64 MiB; hidden states of %s in all, on the disk beyond a quarter of it\n", bytesText(limits.Memory), bytesText(states))
	return nil
}

// print is the terminal report.
func (o *EvalOptions) print(g *globals, e *report.Evaluation) {
	w := g.Stdout
	escape.Fprintf(w, "%s: %s tokens scored in %d windows, in %s\n\n", cmp.Or(o.Text.Text, o.Text.Tokens), countText(int64(e.Scored)), e.Windows, durationText(time.Duration(e.Seconds*float64(time.Second))))
	printTable(w, e.Summary())
	if len(e.Checkpoints) == 1 {
		return
	}
	fmt.Fprintln(w)
	printTable(w, e.Kinds())
	fmt.Fprintln(w)
	printTable(w, e.ByPosition())
	for i := range e.Checkpoints[1:] {
		c := &e.Checkpoints[i+1]
		if g.Verbose {
			escape.Fprintf(w, "\n%s, relative errors:\n\n", c.Path)
			printTable(w, e.ByLayer(c))
			continue
		}
		v := make([]float64, len(c.Layers))
		lo, hi := math.Inf(1), 0.0
		for k, l := range c.Layers {
			v[k] = l.Relative
			lo, hi = min(lo, v[k]), max(hi, v[k])
		}
		escape.Fprintf(w, "\nhidden states of %s by layer, 0 to %d:  %.4f %s %.4f", c.Path, len(v)-1, lo, report.Sparkline(v), hi)
	}
	fmt.Fprintln(w)
}

// printTable prints a table of a report.
func printTable(w io.Writer, t report.Table) {
	out := newTable(w)
	cells := func(texts []string) []any {
		all := make([]any, len(texts))
		for i, s := range texts {
			all[i] = s
		}
		return row(all...)
	}
	out.AppendHeader(cells(t.Head))
	for _, r := range t.Rows {
		out.AppendRow(cells(r))
	}
	alignRight(out, 2, len(t.Head))
	out.Render()
}

// gates holds the figures against the limits.
func (o *EvalOptions) gates(r *evaluate.Result) error {
	var failed []string
	for i := range r.Checkpoints[1:] {
		c := &r.Checkpoints[i+1]
		if o.MaxKL > 0 && !(*c.KLMean <= o.MaxKL) {
			failed = append(failed, fmt.Sprintf("mean KL %.5f (at most %g) of %s", *c.KLMean, o.MaxKL, c.Path))
		}
		if o.MaxPPLRatio > 0 && !(*c.Ratio <= o.MaxPPLRatio) {
			failed = append(failed, fmt.Sprintf("perplexity %.5f times that of the source (at most %g) of %s", *c.Ratio, o.MaxPPLRatio, c.Path))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &checkError{"not met: " + strings.Join(failed, "; ")}
}
