package verify

import (
	"bytes"
	"fmt"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Fix composes the config.json that says what the tensors of src are:
// quantization_config with type, double quantization and storage as the weights
// have them and a skip list that keeps exactly the plain modules plain in every
// loader of the targets (0: those of the model, see [arch.Model.Targets]). It changes nothing else, and
// returns nil if config.json says all that already. What only other tensors
// could mend is an error.
func Fix(src *checkpoint.Source, targets arch.Target) ([]byte, error) {
	if src.Config == nil {
		return nil, &convert.SourceError{Path: src.Path, Msg: "there is no config.json to mend",
			Hint: "copy that of the model it was made of"}
	}
	groups, err := fourbit.Group(convert.BnbTensors(src))
	if err != nil {
		return nil, err
	}
	if bad := groups.Errors(); len(bad) > 0 {
		return nil, bad[0]
	}
	if len(groups.Weights) == 0 {
		return nil, &convert.SourceError{Path: src.Path, Msg: "no tensor has a bitsandbytes 4-bit quant_state"}
	}
	cfg, err := checkpoint.ParseConfig(src.Config)
	if err != nil {
		return nil, err
	}
	query, err := arch.ParseConfig(cfg.Strict())
	if err != nil {
		return nil, err
	}
	names := make([]string, len(src.Tensors))
	for i, t := range src.Tensors {
		names[i] = t.Name
	}
	model, err := arch.Resolve(query, names)
	if err != nil {
		model = arch.Unknown(query)
	}
	if targets, err = model.Targets(targets); err != nil {
		return nil, &convert.OptionError{Msg: err.Error()}
	}
	var kept, quantized []arch.Tensor
	for _, t := range groups.Plain {
		if c := model.ClassifyTensor(t.Name, len(t.Shape)); c.Module {
			kept = append(kept, arch.Tensor{Name: t.Name, Class: c})
		}
	}
	first := groups.Weights[0]
	for _, w := range groups.Weights {
		if w.State.QuantType != first.State.QuantType || w.State.DoubleQuant != first.State.DoubleQuant {
			return nil, &convert.SourceError{Path: src.Path, Tensor: w.Name,
				Msg: fmt.Sprintf("it and %s differ in type or double quantization, which one config.json cannot say", first.Name)}
		}
		quantized = append(quantized, arch.Tensor{Name: w.Name, Class: model.Classify(w.Name)})
	}
	list, bad := model.SkipList(targets, kept, quantized)
	if len(bad) > 0 {
		return nil, &convert.SourceError{Path: src.Path, Msg: fmt.Sprintf("no skip list serves every loader: %v", bad[0])}
	}
	want := bnb.QuantizationConfig{QuantType: first.State.QuantType, DoubleQuant: first.State.DoubleQuant,
		ComputeDType: first.State.DType, Storage: bnb.StorageName(first.Packed.DType), SkipModules: list}
	if q := fourbit.DetectConfig(src.Config); q != nil && q.FourBit {
		if have, _, err := fourbit.ParseConfig(q.Raw); err == nil {
			want.ComputeDType = have.ComputeDType
		}
	}
	object, err := want.Encode()
	if err != nil {
		return nil, err
	}
	edits := append(cfg.RemoveQuantization(), checkpoint.Set("quantization_config", object))
	out, err := checkpoint.EditConfig(src.Config, edits...)
	if err != nil || bytes.Equal(out, src.Config) {
		return nil, err
	}
	return out, nil
}
