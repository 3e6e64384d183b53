package convert

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// decide fills the items.
func (p *Plan) decide(m *weights.Model, pol *policy) error {
	var misread []arch.Tensor
	p.items = slices.Grow(p.items, len(m.Tensors)) // an Item is large, and there may be half a million
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if !supported(t.DType) {
			return &SourceError{Path: m.Source.Path, Tensor: t.Name,
				Msg: fmt.Sprintf("dtype %s is not supported as a source; want F64, F32, F16 or BF16 weights", t.DType)}
		}
		experts, err := m.Experts(t)
		if err != nil {
			return err
		}
		for i := range experts {
			part := &experts[i]
			p.add(m, part, pol.decide(part.Name, part.DType, part.Shape, part.Class))
		}
		if experts != nil {
			continue
		}
		d := pol.decide(t.Name, t.DType, t.Shape, t.Class)
		if d.misread {
			misread = append(misread, arch.Tensor{Name: t.Name, Class: t.Class})
		}
		p.add(m, t, d)
	}
	p.noteMisread(misread, pol)
	p.kinds()
	return nil
}

// kinds names the kinds of the quantized items.
func (p *Plan) kinds() {
	var names []string
	var items []*Item
	for i := range p.items {
		if it := &p.items[i]; it.Quantize {
			names, items = append(names, it.Name), append(items, it)
		}
	}
	for i, kind := range weights.Kinds(names) {
		items[i].Kind = kind
	}
}

// add appends the item of a tensor and what was decided about it.
func (p *Plan) add(m *weights.Model, t *weights.Tensor, d decision) {
	it := Item{Tensor: t, Shape: t.Shape, Quantize: d.quantize, Spec: d.spec, Reason: d.reason, index: len(p.items)}
	switch {
	case d.quantize:
		linear := m.Linear(t)
		if s := t.Stacked(); s != nil {
			linear, it.Stack = *s, t.Shape[0]
		}
		it.Tensor, it.Shape = &linear, linear.Shape
	case t.Turned && t.Class.Conv1D: // packed as [out, in], kept as [in, out]
		it.Shape = []int64{t.Shape[1], t.Shape[0]}
	}
	p.items = append(p.items, it)
	p.stats.Params += it.Elems()
	p.stats.SrcBytes += it.Bytes
	if d.quantize {
		p.stats.QuantCount++
		p.stats.QuantParams += it.Elems()
		return
	}
	p.stats.KeptCount++
	if it.Class.Expert && !it.Class.Router {
		p.stats.ExpertParams += it.Elems()
		if it.Class.Module {
			p.stats.PackableExperts += it.Elems()
		}
	}
}

// supported reports whether a tensor of this dtype can be written: floats are
// rounded to the run dtype, integers and booleans copied.
func supported(d safetensors.DType) bool {
	switch d {
	case safetensors.F8_E4M3, safetensors.F8_E5M2, safetensors.F8_E8M0, safetensors.F4, safetensors.F6_E2M3, safetensors.F6_E3M2:
		return false
	}
	return true
}

// chooseDType settles the run dtype: --dtype, else config.json's, else that of
// most quantizable bytes, else bfloat16.
func (p *Plan) chooseDType(opt *Options) error {
	run, auto, _ := opt.dtypes()
	if auto {
		var err error
		if run, err = p.configDType(); err != nil {
			run = safetensors.BF16
			bytes := map[safetensors.DType]int64{}
			var most int64
			for i := range p.items {
				if it := &p.items[i]; it.Quantize {
					bytes[it.DType] += it.Bytes
					most = max(most, bytes[it.DType])
				}
			}
			if most > 0 && bytes[safetensors.F16] == most && bytes[safetensors.BF16] != most {
				run = safetensors.F16
			}
		}
	}
	p.runDType = run
	for i := range p.items {
		it := &p.items[i]
		if !it.Quantize {
			p.keep(it, opt.targets())
		}
	}
	return nil
}

// keep settles the dtype in which an unquantized tensor is written: floats in
// the run dtype, but for two kinds. What transformers holds in float32 although
// the model has that dtype is written so, since a ".weight" keeps the dtype of its
// file from 5.21 on. Rotary frequencies are buffers, which no loader casts.
func (p *Plan) keep(it *Item, t arch.Target) {
	it.Out = it.DType
	if !weights.IsFloat(it.DType) || strings.HasSuffix(it.Name, "inv_freq") {
		return
	}
	it.Out = p.runDType
	if it.Class.Float32(t, p.runDType == safetensors.F16) {
		it.Out = safetensors.F32
	}
}

func (p *Plan) configDType() (safetensors.DType, error) {
	if p.config == nil {
		return 0, errors.New("no config.json")
	}
	return runDType(p.config.DType())
}
