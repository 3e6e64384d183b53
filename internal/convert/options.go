package convert

import (
	"fmt"
	"regexp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Rule overrides the format of the tensors whose name matches Pattern. The first rule that matches a tensor decides.
type Rule struct {
	Pattern *regexp.Regexp // RE2, unanchored, on tensor names
	Keep    bool           // leave the tensor in 16 bits
	Change  bnb.Change     // else what differs from the default format
}

// ParseRule reads REGEX=SPEC, where SPEC is "keep" or a comma-separated list
// of nf4|fp4, block=N and dq|nodq. The first '=' that is followed by a valid
// SPEC separates the two, so that a pattern may hold '='.
func ParseRule(s string) (Rule, error) {
	var firstErr error
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			continue
		}
		r, err := parseSpec(s[i+1:])
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		r.Pattern, err = regexp.Compile(s[:i])
		if err != nil {
			return Rule{}, fmt.Errorf("rule %q: %w", s, err)
		}
		return r, nil
	}
	if firstErr != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", s, firstErr)
	}
	return Rule{}, fmt.Errorf("rule %q: want REGEX=SPEC, such as 'down_proj=nf4,block=32' or 'layers\\.0\\.=keep'", s)
}

func parseSpec(s string) (Rule, error) {
	if s == "keep" {
		return Rule{Keep: true}, nil
	}
	c, err := bnb.ParseChange(s)
	return Rule{Change: c}, err
}

// A Format is that of package bnb.
type Format = bnb.Format

// Options say how a checkpoint is converted. The zero value is the default.
type Options struct {
	Spec         bnb.Format // of every tensor that no rule changes
	DType        string     // run dtype: "" or "auto", "bfloat16", "float16"
	ComputeDType string     // "" or "auto": the run dtype; "bfloat16", "float16", "float32"
	Only, Skip   []*regexp.Regexp
	Rules        []Rule
	Targets      arch.Target // 0: those of the model, see arch.Model.Targets
	Towers       bool        // quantize vision and audio towers too, as transformers would
	PerExpert    bool        // quantize routed experts that are stored one by one, as transformers 4 would

	AllowIncomplete bool // what the checkpoint lacks, or has too much, is a warning
	// AsBitsandbytes quantizes all that BitsAndBytesConfig does: towers, encoders' poolers, and what the model's own code cannot
	// work with packed.
	AsBitsandbytes bool
	// Formats are those that weights are quantized in, by name; all others are kept. nil: Spec, Rules and the policy decide.
	Formats map[string]Format
	Packed  map[string]*fourbit.Weight // those of Formats that nothing has changed in the source: codes and scales stay as they are
	Inputs  Inputs                     // what is known of the inputs of weights; nil: nothing

	// FitExperts gives experts that Unsloth would pack again, since they are no whole blocks of Spec's, smaller blocks that fit, unless
	// a rule says what theirs are.
	FitExperts   bool
	ExactStorage bool  // leave words of packed codes that are NaNs in the dtype of Spec.Storage
	MaxShardSize int64 // bytes of tensor data a file; 0: checkpoint.DefaultMaxShardSize
}

func (o *Options) dtypes() (run safetensors.DType, auto bool, err error) {
	switch o.DType {
	case "", "auto":
		return 0, true, nil
	}
	run, err = runDType(o.DType)
	return run, false, err
}

// runDType maps the torch spelling of a 16-bit dtype to the one of safetensors.
func runDType(name string) (safetensors.DType, error) {
	switch name {
	case "bfloat16":
		return safetensors.BF16, nil
	case "float16":
		return safetensors.F16, nil
	}
	return 0, fmt.Errorf("dtype %q: want auto, bfloat16 or float16", name)
}

// Validate reports options that contradict each other or are out of range.
func (o *Options) Validate() error {
	if err := o.Spec.Validate(); err != nil {
		return err
	}
	if _, _, err := o.dtypes(); err != nil {
		return err
	}
	switch o.ComputeDType {
	case "", "auto", "bfloat16", "float16", "float32":
	default:
		return fmt.Errorf("compute dtype %q: want auto, bfloat16, float16 or float32", o.ComputeDType)
	}
	if o.MaxShardSize < 0 {
		return fmt.Errorf("max shard size %d: want a positive size", o.MaxShardSize)
	}
	return nil
}

// forModel is o with the targets that the model's own loaders are.
func (o Options) forModel(m *arch.Model) (*Options, error) {
	if m == nil {
		return &o, nil
	}
	var err error
	if o.Targets, err = m.Targets(o.Targets); err != nil {
		return nil, &OptionError{err.Error()}
	}
	return &o, nil
}

func (o *Options) targets() arch.Target {
	if o.Targets == 0 {
		return arch.Transformers5 | arch.Transformers4
	}
	return o.Targets
}
