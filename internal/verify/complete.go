package verify

import (
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/complete"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/safetensors"
)

// complete holds the checkpoint to its class and config.json. A weight that cannot be decoded is there; what is wrong with it
// was said before.
func (r *Report) complete(sub *subject, allow bool) error {
	if sub.cfg == nil {
		return nil
	}
	model := sub.model
	if model == nil {
		model = arch.Unknown(sub.query)
	}
	var tensors []complete.Tensor
	for _, t := range sub.groups.Plain {
		tensors = append(tensors, complete.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape})
	}
	for _, w := range sub.groups.Weights {
		tensors = append(tensors, complete.Tensor{Name: w.Name, DType: safetensors.BF16, Shape: w.State.Dims(), Turned: model.ClassifyTensor(w.Name, 2).Conv1D})
	}
	found, err := convert.Completeness(sub.cfg, model, tensors)
	if err != nil {
		return err
	}
	severity := fourbit.Error
	if allow {
		severity = fourbit.Notice
	}
	for _, p := range found.Problems {
		file := "config.json"
		if t, ok := sub.src.Lookup(p.Tensor); ok {
			if p.Kind == complete.Missing {
				continue
			}
			file = t.Shard.Name
		}
		r.find(severity, file, p.Tensor, "%s: expected %s, found %s", p.Kind, p.Expected, p.Found)
	}
	if found.More > 0 {
		r.find(severity, "", "", "%d more tensors are missing, misshapen or foreign", found.More)
	}
	for _, n := range found.Notices {
		r.find(fourbit.Notice, "", "", "%s", n)
	}
	return nil
}
