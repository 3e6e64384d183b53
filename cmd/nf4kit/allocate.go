package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"github.com/nf4kit/nf4kit/internal/allocate"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/nf4"
)

// AllocateOptions are the flags about bits that are chosen for each weight.
type AllocateOptions struct {
	TargetBPP    float64
	TargetBlocks []int
	SaveRecipe   string
}

const allocateHelp = `--target-bpp X chooses for each weight between 16 bits and blocks of several sizes, so that all outputs
together lose least, by estimate, at X bits per parameter: of all weights that would be quantized, codes and
constants (4.127 is blocks of 64 with double quantization, 4.254 blocks of 32). It reads a part of every weight
twice. The estimate goes by the inputs that --activations or --imatrix knows, and by what errors cost where
the program of calibration-script was run with --sensitivity; else each layer's relative error counts alike. What
--rule, --only and --skip say of a weight holds. --save-recipe keeps the choice for other runs.`

func (o *AllocateOptions) addFlags(fs *pflag.FlagSet) {
	fs.Float64Var(&o.TargetBPP, "target-bpp", 0, "choose each weight's bits for `X` bits per parameter of what is quantized")
	fs.IntSliceVar(&o.TargetBlocks, "target-blocks", allocate.Blocks, "block sizes that --target-bpp chooses from; 32 needs bitsandbytes 0.50")
	fs.StringVar(&o.SaveRecipe, "save-recipe", "", "write the flags that the result depends on to a YAML `FILE` for --recipe, with what --target-bpp chose")
}

// check finds flags that contradict each other, and sizes that there are not.
func (o *AllocateOptions) check(given map[string]string) error {
	if _, ok := given["target-bpp"]; !ok {
		if _, ok := given["target-blocks"]; ok {
			return usagef("--target-blocks: there is no --target-bpp to choose for")
		}
		return nil
	}
	if !(o.TargetBPP > 4 && o.TargetBPP < 16) {
		return usagef("--target-bpp %v: want more than 4 and less than 16", o.TargetBPP)
	}
	if len(o.TargetBlocks) == 0 {
		return usagef("--target-blocks: want block sizes")
	}
	for _, b := range o.TargetBlocks {
		if b == 0 || (nf4.Config{BlockSize: b}).Validate() != nil {
			return usagef("--target-blocks %d: want powers of two from 32 to 4096", b)
		}
	}
	slices.Sort(o.TargetBlocks)
	o.TargetBlocks = slices.Compact(o.TargetBlocks)
	return nil
}

// sensitive is what knows how much errors of a weight's outputs count.
type sensitive interface {
	Sensitivity(weight string) (value float64, ok bool)
	HasSensitivity() bool
}

// chooseBits adds to opt, and to the settings, the rules that meet --target-bpp.
func (o *ConvertOptions) chooseBits(ctx context.Context, g *globals, src *checkpoint.Source, opt *convert.Options) (*allocate.Outcome, error) {
	p, err := await(ctx, func() (*convert.Plan, error) { return convert.NewPlan(src, *opt) })
	if err != nil {
		return nil, err
	}
	limits, err := o.stream()
	if err != nil {
		return nil, err
	}
	a := allocate.Options{Target: o.TargetBPP, Blocks: o.TargetBlocks, Targets: opt.Targets, Stream: limits, Fixed: func(name string) bool {
		return slices.ContainsFunc(opt.Rules, func(r convert.Rule) bool { return r.Pattern.MatchString(name) })
	}}
	if _, given := o.settings["double-quant"]; given {
		a.Double = &o.DoubleQuant
	}
	if s, ok := opt.Inputs.(sensitive); ok && s.HasSensitivity() {
		a.Sensitivity = s.Sensitivity
	}
	for {
		bar := newProgress(g.Stderr, "choosing bits", p.Stats().SrcBytes, g.Quiet)
		a.Progress = bar.advance
		out, err := allocate.Choose(ctx, p, a)
		bar.finish()
		var target *allocate.TargetError
		switch {
		case errors.As(err, &target):
			return nil, usagef("--target-bpp: %w", err)
		case err != nil:
			return nil, err
		}
		with := *opt
		rules := out.Rules(opt.Spec)
		for _, text := range rules {
			r, err := convert.ParseRule(text)
			if err != nil {
				return nil, fmt.Errorf("internal error: %w", err)
			}
			with.Rules = append(slices.Clip(with.Rules), r)
		}
		_, err = convert.NewPlan(src, with)
		var refused *convert.SourceError
		if errors.As(err, &refused) && out.KeptCount > 0 && !a.NoKeep {
			a.NoKeep = true // no skip list may tell what is kept here from what is not
			continue
		}
		if err != nil {
			return nil, err
		}
		*opt = with
		o.Rules = append(slices.Clip(o.Rules), rules...)
		if len(o.Rules) > 0 {
			o.settings["rule"] = strings.Join(o.Rules, "\n")
		}
		return out, nil
	}
}

// saveRecipe writes the settings that the output depends on.
func (o *ConvertOptions) saveRecipe() error {
	flags := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(o.settings)) {
		switch key {
		case "rule", "skip", "only", "target":
			flags[key] = strings.Split(o.settings[key], "\n")
		default:
			flags[key] = o.settings[key]
		}
	}
	delete(flags, "activations")
	switch {
	case o.Imatrix != "":
		flags["imatrix"] = o.Imatrix
	case o.Calibrate != "":
		flags["calibrate"], flags["calibrate-tokens"] = o.Calibrate, strconv.Itoa(o.CalibrateTokens)
	case o.Activations != "":
		flags["activations"] = o.Activations
	}
	raw, err := yaml.Marshal(flags)
	if err != nil {
		return err
	}
	return createFile(o.SaveRecipe, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
}

// checkRecipePlace refuses a recipe that would replace a file of SRC, or be lost in DST.
func (o *ConvertOptions) checkRecipePlace(src *checkpoint.Source) error {
	if o.SaveRecipe == "" {
		return nil
	}
	if ext := strings.ToLower(filepath.Ext(o.SaveRecipe)); ext != ".yaml" && ext != ".yml" {
		return usagef("--save-recipe %s: want a name that ends in .yaml", o.SaveRecipe)
	}
	name, err := filepath.Abs(o.SaveRecipe)
	if err != nil {
		return err
	}
	for _, dir := range []string{src.Dir, o.to.path} {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(rel) && !src.IsFile {
			return usagef("--save-recipe %s: want a place outside of %s", o.SaveRecipe, dir)
		}
	}
	return nil
}

// allocationLines are what the summary says of the choice.
func allocationLines(a *allocate.Outcome) [][2]string {
	counts := map[string]int{}
	for i := range a.Choices {
		c := &a.Choices[i]
		name := fmt.Sprintf("in blocks of %d", c.Format.Block())
		switch {
		case c.Keep:
			name = "in 16 bits"
		case c.Format.NoDoubleQuant:
			name += " without double quantization"
		}
		counts[name]++
	}
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(x, y string) int { return counts[y] - counts[x] }) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	estimate := fmt.Sprintf("%.4g (%s)", a.Estimate, a.By)
	var best *allocate.Uniform
	for i := range a.Uniform {
		if u := &a.Uniform[i]; u.Bits <= a.Target && (best == nil || u.Estimate < best.Estimate) {
			best = u
		}
	}
	if best != nil {
		estimate += fmt.Sprintf("; %s for all %.4g at %.3f bits", best.Format, best.Estimate, best.Bits)
	}
	return [][2]string{
		{"target", fmt.Sprintf("%v bits per parameter of these weights: %.3f taken; %s", a.Target, a.Bits, strings.Join(parts, ", "))},
		{"estimate", estimate},
	}
}
