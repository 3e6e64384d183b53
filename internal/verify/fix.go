package verify

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Fix composes the config.json that says what the tensors of src are: quantization_config with type, double quantization and
// storage as the weights have them and a skip list that keeps exactly the plain modules plain in every loader of the targets
// (0: those of the model, see [arch.Model.Targets]). It changes nothing else, and returns nil if config.json is not what is
// wrong. From the config.json of a plain model that says otherwise it removes the quantization. What only other tensors could
// mend is an error.
func Fix(src *checkpoint.Source, targets arch.Target) ([]byte, error) {
	if src.Config == nil {
		return nil, &weights.SourceError{Path: src.Path, Msg: "there is no config.json to mend",
			Hint: "copy that of the model it was made of"}
	}
	groups, err := fourbit.Group(weights.BnbTensors(src))
	if err != nil {
		return nil, err
	}
	if bad := groups.Errors(); len(bad) > 0 {
		return nil, bad[0]
	}
	if len(groups.Weights) == 0 {
		return fixPlain(src)
	}
	sub, err := newSubject(src, groups, targets)
	if err != nil {
		return nil, err
	}
	r := &Report{Targets: sub.targets}
	if err := r.config(sub); err != nil {
		return nil, err
	}
	r.judge()
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.fixable && f.Severity >= fourbit.Warning }) {
		return nil, nil
	}
	return sub.mended()
}

// mended composes the config.json.
func (s *subject) mended() ([]byte, error) {
	src, groups := s.src, s.groups
	first := groups.Weights[0]
	for _, w := range groups.Weights {
		if w.State.Type != first.State.Type || w.State.NoDoubleQuant != first.State.NoDoubleQuant {
			return nil, &weights.SourceError{Path: src.Path, Tensor: w.Name,
				Msg: fmt.Sprintf("it and %s differ in type or double quantization, which one config.json cannot say", first.Name)}
		}
	}
	if s.model == nil {
		s.model = arch.Unknown(s.query)
	}
	kept, quantized := s.modules()
	list, bad := s.model.SkipList(s.targets, kept, quantized)
	if len(bad) > 0 {
		return nil, &weights.SourceError{Path: src.Path, Msg: fmt.Sprintf("no skip list serves every loader: %v", bad[0])}
	}
	storage, _ := bnb.StorageOf(first.Packed.DType) // Group refuses a weight of another
	want := bnb.QuantizationConfig{Type: first.State.Type, DoubleQuant: !first.State.NoDoubleQuant,
		ComputeDType: first.State.DType.String(), Storage: storage.String(), SkipModules: list}
	if q := fourbit.DetectConfig(src.Config); q != nil && q.FourBit {
		if have, _, err := fourbit.ParseConfig(q.Raw); err == nil {
			if _, err := nf4.ParseDType(have.ComputeDType); err == nil {
				want.ComputeDType = have.ComputeDType
			}
		}
	}
	object, err := want.Encode()
	if err != nil {
		return nil, err
	}
	edits := append(s.cfg.RemoveQuantization(), checkpoint.Set("quantization_config", object))
	out, err := checkpoint.EditConfig(src.Config, edits...)
	if err != nil || bytes.Equal(out, src.Config) {
		return nil, err
	}
	return out, nil
}

// fixPlain is Fix for a checkpoint without 4-bit weights.
func fixPlain(src *checkpoint.Source) ([]byte, error) {
	q, stale, err := weights.Quantized(src)
	if err != nil {
		return nil, err
	}
	e := &weights.SourceError{Path: src.Path, Msg: "no tensor has a bitsandbytes 4-bit quant_state"}
	switch {
	case q != nil && q.Label != "":
		e.Msg += "; the weights are " + q.Label
		return nil, e
	case stale == nil:
		return nil, e
	case stale.File != "config.json":
		e.Msg = weights.Stale(stale, nil)
		e.Hint = weights.StaleHint(src, stale)
		return nil, e
	}
	cfg, err := checkpoint.ParseConfig(src.Config)
	if err != nil {
		return nil, err
	}
	return checkpoint.EditConfig(src.Config, cfg.RemoveQuantization()...)
}
