package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/calibrate"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/evaluate"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// CalibrateOptions are the arguments and flags of calibrate.
type CalibrateOptions struct {
	Src, Out  string
	Text      TextOptions
	Gram      bool
	MaxTokens int
	Context   int
	Force     bool
	Limits
}

// The defaults of calibration, those of the script.
const (
	calibrateTokens  = 32768
	calibrateContext = 2048
)

func newCalibrateCommand(g *globals) *cobra.Command {
	var o CalibrateOptions
	cmd := &cobra.Command{
		Use:   "calibrate SRC -o FILE",
		Short: "Write what the inputs of a model's layers are like on a text, for convert --activations",
		Long: `calibrate runs SRC on a text, in float32 on the processor, and writes the mean square of
each input column of every Linear, or with --gram the Gram matrix of the inputs too, and a
second one of every tenth window, which the first leaves out. convert --activations reads
the file: --quality better weighs errors with it, and --quality best needs --gram.

It is what the program of calibration-script does through transformers, with the same
windows: --context tokens each, spread over the text, without special tokens. Models are
those of eval. Experts that are stored in a stack are left out. Matrices take 8 bytes for each
pair of columns; those of a layer beyond half of --max-memory take more passes over it.

convert --calibrate does it on the way to a conversion.`,
		Example: `  nf4kit calibrate Llama-3.2-1B --text sample.txt -o llama.act.safetensors --gram
  nf4kit convert Llama-3.2-1B out --quality best --activations llama.act.safetensors`,
		Args: arguments("SRC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src = args[0]
			return runCalibrate(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	o.Text.addFlags(fs, "calibrate on")
	fs.StringVarP(&o.Out, "out", "o", "", "write `FILE`, a safetensors file")
	fs.BoolVar(&o.Gram, "gram", false, "Gram matrices too")
	fs.IntVar(&o.MaxTokens, "max-tokens", calibrateTokens, "tokens to take, of all of the text")
	fs.IntVar(&o.Context, "context", 0, "tokens of a window, at most as many as the model has positions for; 0 is 2048, or half of a shorter text or of --max-tokens")
	fs.BoolVar(&o.Force, "force", false, "replace FILE if it exists")
	o.Limits.addFlags(fs)
	fs.Lookup("max-memory").DefValue = "2GiB"
	o.Limits.MaxMemory = "2GiB"
	return cmd
}

// runCalibrate is the command without cobra.
func runCalibrate(ctx context.Context, g *globals, o CalibrateOptions) error {
	if err := o.Text.check(); err != nil {
		return err
	}
	if o.Out == "" {
		return usagef("-o FILE: want the name of the file to write")
	}
	if _, err := os.Lstat(o.Out); err == nil && !o.Force {
		return &checkpoint.OutputError{Path: o.Out, Reason: "it exists", Hint: "--force replaces it"}
	}
	limits, err := o.Limits.stream()
	if err != nil {
		return err
	}
	collectGarbage(limits.Memory)
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	start := time.Now()
	n, err := o.run(ctx, g, src, limits)
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.calibrate/1", "source": o.Src, "file": o.Out, "gram": o.Gram, "tokens": n[0], "heldout_tokens": n[1],
			"context": n[2], "seconds": time.Since(start).Seconds()})
	}
	if !g.Quiet {
		escape.Fprintf(g.Stdout, "%s: %s tokens and %s held out, in windows of %s, in %s\n", o.Out, countText(int64(n[0])), countText(int64(n[1])), countText(int64(n[2])), durationText(time.Since(start)))
	}
	return nil
}

// run writes the file, and returns how many tokens it is of, how many were held out, and how many the longest window has.
func (o *CalibrateOptions) run(ctx context.Context, g *globals, src *checkpoint.Source, limits stream.Options) (n [3]int, err error) {
	if o.MaxTokens < 2 || o.Context < 0 || o.Context == 1 {
		return n, usagef("%d tokens in windows of %d: want 2 or more of each", o.MaxTokens, o.Context)
	}
	m, err := newDecoder(ctx, src, o.Src, forward.Options{Jobs: limits.Workers(), MaxMemory: limits.Memory / 2})
	if err != nil {
		return n, err
	}
	ids, _, err := o.Text.read(src, m.Vocab(), false)
	if err != nil {
		return n, err
	}
	size := cmp.Or(o.Context, calibrateContext)
	if p := m.Context(); p > 1 {
		size = min(size, p)
	}
	if o.Context == 0 && len(ids) == 1 && (len(ids[0]) < size+2 || o.MaxTokens < 2*size) {
		size = max(2, min(len(ids[0]), o.MaxTokens)/2) // a short text, or a part of one, has two windows all the same
	}
	calibration, heldout, err := calibrate.Windows(ids, o.MaxTokens, size)
	if err != nil {
		return n, &usageError{err}
	}
	longest := 0
	for _, w := range slices.Concat(calibration, heldout) {
		longest = max(longest, len(w))
	}
	if o.Context == 0 && longest == size && !g.Quiet { // else the texts are the windows
		noticef(g.Stderr, "calibrating in windows of %s tokens; where the texts that the model will see are shorter, nf4kit calibrate --context takes it as they will be", countText(int64(size)))
	}
	bar := newSteps(g.Stderr, "calibrating", calibrate.Work(m.Decoder, calibration, heldout), g.Quiet)
	err = calibrate.Write(ctx, m.Decoder, calibration, heldout, o.Out, calibrate.Options{Gram: o.Gram, Jobs: limits.Workers(), MaxMemory: limits.Memory / 2, Progress: bar.advance})
	bar.finish()
	return [3]int{calibrate.Count(calibration), calibrate.Count(heldout), longest}, err
}

// inputs are what errors are weighed with: what a file says, or the text of --calibrate, which a dry run takes where the plan depends on it.
func (o *ConvertOptions) inputs(ctx context.Context, g *globals, src *checkpoint.Source, opt *convert.Options) (in convert.Inputs, identity string,
	done func() error, err error) {
	if o.Calibrate == "" || o.DryRun && o.TargetBPP == 0 {
		return o.open(opt.Spec.Scale)
	}
	remove, err := o.calibrate(ctx, g, src, opt)
	if err != nil {
		return nil, "", nil, err
	}
	in, identity, closeFile, err := o.open(opt.Spec.Scale)
	if err != nil {
		return nil, "", nil, errors.Join(err, remove())
	}
	return in, identity, func() error { return errors.Join(closeFile(), remove()) }, nil
}

// calibrate makes the file of --calibrate in a directory beside DST, or where its files are staged, and has it read like that of
// --activations: once it is known that the conversion has a plan and its place, and with Gram matrices only where a weight takes
// them.
func (o *ConvertOptions) calibrate(ctx context.Context, g *globals, src *checkpoint.Source, opt *convert.Options) (remove func() error, err error) {
	p, err := await(ctx, func() (*convert.Plan, error) { return convert.NewPlan(src, *opt) })
	if err != nil {
		return nil, err
	}
	if err := p.Check(o.to.path, convert.WriteOptions{Force: o.Force, Store: o.to.store}); err != nil {
		return nil, err
	}
	limits, err := o.Limits.stream()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Clean(o.to.path)), tempPattern)
	if err != nil {
		return nil, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	c := CalibrateOptions{Src: o.Src, Out: filepath.Join(dir, "activations.safetensors"), Text: TextOptions{Text: o.Calibrate},
		Gram: usedScales(opt)[bnb.Feedback], MaxTokens: o.CalibrateTokens}
	if _, err := c.run(ctx, g, src, limits); err != nil {
		return nil, errors.Join(err, remove())
	}
	o.Activations = c.Out
	return remove, nil
}

// newDecoder prepares the forward pass of a checkpoint.
func newDecoder(ctx context.Context, src *checkpoint.Source, path string, opt forward.Options) (evaluate.Model, error) {
	d, err := await(ctx, func() (*forward.Decoder, error) {
		m, err := weights.Open(src)
		if err != nil {
			return nil, err
		}
		return forward.New(m, opt)
	})
	return evaluate.Model{Path: path, Decoder: d}, err
}
