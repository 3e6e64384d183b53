package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/activations"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/imatrix"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// ScaleOptions are the flags about the way in which scales are chosen.
type ScaleOptions struct {
	Scale, Quality       string
	Imatrix, Activations string
	Calibrate            string // a text, from which convert makes Activations
	CalibrateTokens      int
}

const scaleHelp = `Any reader of the format takes any scales, so these may be chosen by the error they leave:

    --scale absmax      the largest magnitude, as bitsandbytes does, bit for bit (default)
    --scale mse         the positive scale with the least squared error
    --scale mse-signed  of either sign
    --scale mse-columns mse-signed; where nothing is known of a weight's inputs, errors in columns
                        of small weights count more, since these tend to have the large inputs
    --scale feedback    mse-signed, and codes that make up for what the codes before in a row did to
                        the layer's output

What the inputs of the layers are like decides what an error costs. --imatrix takes an importance
matrix of llama.cpp, as published for many models; --activations what nf4kit calibrate, or the
program that calibration-script prints, has collected; --calibrate TEXT collects it first, as nf4kit
calibrate does, in a file beside DST that goes when it ends. Given any, mse, mse-signed
and mse-columns weigh errors with it, and mse-signed is the default. feedback needs --calibrate, or
--activations with Gram matrices (--gram), and holds those of one layer, with factors, beside
--max-memory: some 18 bytes for each pair of a layer's inputs, 0.6 GB where these are 5,632.

--quality exact, better and best stand for absmax, mse-columns and feedback. They take processor
time as 1 to 8 to 70 (SmolLM2-135M), and for it the KL divergence from the original falls by 22 %
(better; 25 % with --activations) and by 63 % (best) on the Llama of the repository: see
docs/scales.md.`

func (o *ScaleOptions) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&o.Scale, "scale", "", "how the scale of a block is chosen: absmax, mse, mse-signed, mse-columns or feedback; default absmax, with --imatrix, --activations or --calibrate mse-signed")
	fs.StringVar(&o.Quality, "quality", "", "instead of --scale: exact (absmax), better (mse-columns) or best (feedback)")
	o.addFiles(fs)
	fs.StringVar(&o.Calibrate, "calibrate", "", "weigh errors with what the inputs of the layers are like on the text in `FILE`")
	fs.IntVar(&o.CalibrateTokens, "calibrate-tokens", calibrateTokens, "tokens of it to take")
	enum(cmd, "scale", "absmax", "mse", "mse-signed", "mse-columns", "feedback")
	enum(cmd, "quality", "exact", "better", "best")
}

// addFiles adds the flags that name what is known of inputs.
func (o *ScaleOptions) addFiles(fs *pflag.FlagSet) {
	fs.StringVar(&o.Imatrix, "imatrix", "", "weigh errors with the importance matrix `FILE` of llama.cpp's llama-imatrix (.gguf or .dat)")
	fs.StringVar(&o.Activations, "activations", "", "weigh errors with the `FILE` that nf4kit calibrate, or the program of calibration-script, has written")
}

// choose is the scale that the flags ask for.
func (o *ScaleOptions) choose() (bnb.Scale, error) {
	switch {
	case o.Imatrix != "" && o.Activations != "":
		return 0, usagef("--imatrix and --activations: give one of them")
	case o.Calibrate != "" && (o.Imatrix != "" || o.Activations != ""):
		return 0, usagef("--calibrate, --imatrix and --activations: give one of them")
	}
	name := o.Scale
	if o.Quality != "" {
		if name != "" {
			return 0, usagef("--quality %s and --scale %s: give one of them", o.Quality, name)
		}
		of := map[string]string{"exact": "absmax", "better": "mse-columns", "best": "feedback"}
		if name = of[o.Quality]; name == "" {
			return 0, usagef("--quality %q: want exact, better or best", o.Quality)
		}
	}
	if name == "" {
		if o.Imatrix == "" && o.Activations == "" && o.Calibrate == "" {
			return bnb.AbsMax, nil
		}
		return bnb.MSESigned, nil
	}
	s, err := bnb.ParseScale(name)
	if err != nil {
		return 0, usagef("--scale %q: want absmax, mse, mse-signed, mse-columns or feedback", name)
	}
	return s, nil
}

// usedScales are those of the options and of their rules.
func usedScales(opt *convert.Options) map[bnb.Scale]bool {
	used := map[bnb.Scale]bool{opt.Spec.Scale: true}
	for _, r := range opt.Rules {
		if r.Change.Scale != nil {
			used[*r.Change.Scale] = true
		}
	}
	return used
}

// check finds what the flags lack for the scales that opt has. allocates tells that bits are chosen by what is known of inputs,
// whatever the scales are.
func (o *ScaleOptions) check(opt *convert.Options, allocates bool) error {
	used := usedScales(opt)
	if used[bnb.Feedback] && o.Activations == "" && o.Calibrate == "" {
		return usagef("feedback needs --calibrate TEXT, or --activations FILE with Gram matrices: nf4kit calibrate makes it")
	}
	if len(used) == 1 && used[bnb.AbsMax] && !allocates {
		for flag, file := range map[string]string{"imatrix": o.Imatrix, "activations": o.Activations, "calibrate": o.Calibrate} {
			if file != "" {
				return usagef("--%s %s: absmax makes no use of it", flag, file)
			}
		}
	}
	return nil
}

// open opens the file that the flags name, and says what identifies it in nf4kit.json.
func (o *ScaleOptions) open(scale bnb.Scale) (in convert.Inputs, identity string, close func() error, err error) {
	switch {
	case o.Imatrix != "":
		m, err := imatrix.Open(o.Imatrix)
		if err != nil {
			return nil, "", nil, err
		}
		if identity, err = fileDigest(o.Imatrix); err != nil {
			return nil, "", nil, err
		}
		return noGram{m}, identity, func() error { return nil }, nil
	case o.Activations != "":
		f, err := activations.Open(o.Activations)
		if err != nil {
			return nil, "", nil, err
		}
		if scale == bnb.Feedback && !f.HasGram() {
			f.Close()
			return nil, "", nil, &checkpoint.InputError{File: o.Activations, Expected: "Gram matrices, which feedback needs", Found: "second moments alone",
				Hint: "run nf4kit calibrate, or the program of nf4kit calibration-script, with --gram"}
		}
		if identity, err = fileDigest(o.Activations); err != nil {
			f.Close()
			return nil, "", nil, err
		}
		return f, identity, f.Close, nil
	}
	return nil, "", func() error { return nil }, nil
}

// noGram is an importance matrix, which has no Gram matrices.
type noGram struct{ *imatrix.Matrix }

func (noGram) Gram(string, int64) (calibration, heldout []float32, err error) { return nil, nil, nil }
func (noGram) Entry(string) string                                            { return "" }

// fileDigest is the BLAKE3 digest of a file.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := blake3.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return fmt.Sprintf("blake3:%x", h.Sum(nil)), nil
}

// A memoryError is too little memory for what was asked.
type memoryError struct{ need, free int64 }

func (e *memoryError) Error() string {
	return fmt.Sprintf("feedback needs %s of memory for this model: expected as much to be available, found %s", bytesText(e.need), bytesText(e.free))
}

// checkMemory compares what a method takes beside the limit with what the system has, where it says so.
func checkMemory(p *convert.Plan, limit int64) error {
	if p.Stats().MethodBytes == 0 {
		return nil
	}
	if limit == 0 {
		limit = stream.DefaultMemory
	}
	need := p.Stats().MethodBytes + limit
	if free, ok := availableMemory(); ok && free < need {
		return &memoryError{need, free}
	}
	return nil
}

// availableMemory is Linux's estimate of what can be had without swapping.
func availableMemory() (int64, bool) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10, true
		}
	}
	return 0, false
}
