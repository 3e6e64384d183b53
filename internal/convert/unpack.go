package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/complete"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// DequantizeOptions say how a 4-bit checkpoint is decoded. The zero value is
// the default.
type DequantizeOptions struct {
	DType        string // "" or "auto": what quant_state says, and the rest as it lies; "bfloat16", "float16", "float32" for all
	MaxShardSize int64  // bytes of tensor data a file; 0: checkpoint.DefaultMaxShardSize

	AllowIncomplete bool // what the checkpoint lacks, or has too much, is a warning
}

// NewDequantizePlan decides how the quantized checkpoint src, bitsandbytes
// 4-bit or of a method that package decode knows, becomes a plain one. It reads
// quant_state records and second-level scales, no codes. The checkpoint may be
// anyone's; problems that keep a weight from being decoded are returned as a
// *fourbit.Problem.
func NewDequantizePlan(src *checkpoint.Source, opt DequantizeOptions) (*Plan, error) {
	if opt.MaxShardSize < 0 {
		return nil, &OptionError{fmt.Sprintf("max shard size %d: want a positive size", opt.MaxShardSize)}
	}
	groups, err := fourbit.Group(BnbTensors(src))
	if err != nil {
		return nil, err
	}
	q, stale, err := Quantized(src)
	if err != nil {
		return nil, err
	}
	if len(groups.Weights) == 0 && (q == nil || !q.FourBit) {
		return newDecodePlan(src, q, stale, opt)
	}
	if bad := groups.Errors(); len(bad) > 0 {
		return nil, bad[0]
	}
	if len(groups.Weights) == 0 {
		return nil, &SourceError{Path: src.Path, Msg: "nothing to dequantize: no tensor has a bitsandbytes 4-bit quant_state, though it is quantized by " + q.Label}
	}
	p := &Plan{Source: src}
	if err := p.resolve(src, p.logical(src, nil)); err != nil {
		return nil, err
	}
	p.Notices = nil // about quantizing
	if stale != nil {
		p.Warnings = append(p.Warnings, Stale(stale, q))
	}
	if p.RunDType, err = dequantizedDType(opt.DType, groups); err != nil {
		return nil, err
	}
	packed := map[string]*fourbit.Weight{}
	sidecars := map[string]bool{}
	for _, w := range groups.Weights {
		packed[w.Name] = w
		for _, t := range []fourbit.Tensor{w.Absmax, w.QuantMap, w.NestedAbsmax, w.NestedQuantMap, w.QuantState} {
			if t.Tensor != nil {
				sidecars[t.Name] = true
			}
		}
	}
	for _, t := range inFileOrder(src) {
		if sidecars[t.Name] {
			p.Totals.SrcBytes += t.Size()
			continue
		}
		it := Item{Name: t.Name, File: t.Shard.Name, DType: t.DType, Shape: t.Shape, Source: t, SrcBytes: t.Size(),
			Out: t.DType, elem: kernelElem(t.DType), index: len(p.Items)}
		if p.Model != nil {
			it.Class = p.Model.ClassifyTensor(t.Name, len(t.Shape))
		}
		if w := packed[t.Name]; w != nil {
			it.Out = p.RunDType
			if err := it.unpack(w); err != nil {
				return nil, err
			}
			p.Totals.QuantCount++
			p.Totals.QuantParams += it.Elems()
		} else {
			p.keepDequantized(&it, opt)
			p.Totals.KeptCount++
		}
		p.Totals.Params += it.Elems()
		p.Totals.SrcBytes += it.SrcBytes
		p.Items = append(p.Items, it)
	}
	if err := p.fuse(); err != nil {
		return nil, err
	}
	tensors := make([]complete.Tensor, len(p.Items))
	for i := range p.Items {
		it := &p.Items[i]
		tensors[i] = complete.Tensor{Name: it.Name, DType: it.Out, Shape: it.Shape, Turned: it.packed != nil}
	}
	if err := p.checkComplete(tensors, opt.AllowIncomplete); err != nil {
		return nil, err
	}
	return p, p.layOutPlain(opt)
}

// newDecodePlan is NewDequantizePlan for a source that package decode reads:
// as convert reads it, with every tensor kept.
func newDecodePlan(src *checkpoint.Source, q, stale *fourbit.Quantized, opt DequantizeOptions) (*Plan, error) {
	scheme, err := schemeOf(src, q)
	if err != nil {
		return nil, err
	}
	if scheme == nil || len(scheme.Logical) == 0 {
		e := &SourceError{Path: src.Path, Msg: "nothing to dequantize: the weights are plain"}
		if stale != nil {
			e.Msg += fmt.Sprintf(", though %s: %s says %s", stale.File, stale.Where, stale.Label)
			e.Hint = StaleHint(src, stale)
		}
		return nil, e
	}
	p := &Plan{Source: src}
	tensors := p.logical(src, scheme)
	if err := p.resolve(src, tensors); err != nil {
		return nil, err
	}
	p.Notices = []string{"the source is quantized by " + scheme.Label}
	if stale != nil {
		p.Warnings = append(p.Warnings, Stale(stale, q))
	}
	if p.RunDType, err = dequantizedDType(opt.DType, nil); err != nil {
		return nil, err
	}
	if err := p.checkComplete(modelTensors(tensors), opt.AllowIncomplete); err != nil {
		return nil, err
	}
	if run, err := p.configDType(); err == nil && opt.auto() {
		p.RunDType = run
	}
	decoded := map[string]bool{}
	for i := range scheme.Logical {
		decoded[scheme.Logical[i].Name] = true
	}
	for _, t := range tensors {
		if !supported(t.dtype) {
			return nil, &SourceError{Path: src.Path, Tensor: t.name, Msg: fmt.Sprintf("%s without scales to decode it by", t.dtype)}
		}
		var d decision
		if p.Model != nil {
			d.class = p.Model.ClassifyTensor(t.name, len(t.shape))
		}
		p.add(t, d)
		it := &p.Items[len(p.Items)-1]
		if !decoded[t.name] {
			p.keepDequantized(it, opt)
			continue
		}
		p.keep(it, 0)
		p.Totals.QuantCount++
		p.Totals.KeptCount--
		p.Totals.QuantParams += it.Elems()
	}
	return p, p.layOutPlain(opt)
}

// keepDequantized settles the dtype of a tensor that was not quantized: unless
// one is asked for, that which it has. In a bare file, say of a whole pipeline,
// nobody asked for another, and in a model what is in float32 is so for a reason.
func (p *Plan) keepDequantized(it *Item, opt DequantizeOptions) {
	if opt.auto() && (p.config == nil || it.DType == safetensors.F32) {
		it.Out = it.DType
		return
	}
	p.keep(it, 0)
}

func (o DequantizeOptions) auto() bool { return o.DType == "" || o.DType == "auto" }

// layOutPlain gives every tensor of a plain checkpoint its place.
func (p *Plan) layOutPlain(opt DequantizeOptions) error {
	kinds(p.Items)
	entries := make([]checkpoint.Group, len(p.Items))
	for i := range p.Items {
		it := &p.Items[i]
		entries[i] = checkpoint.Group{Name: it.Name, Entries: []safetensors.Entry{{Name: it.Name, DType: it.Out, Shape: it.Shape}}}
		it.OutBytes = groupSize(entries[i].Entries)
		p.Totals.OutBytes += it.OutBytes
	}
	if err := p.shards(entries, opt.MaxShardSize); err != nil {
		return err
	}
	return p.directory(weights.TorchName(p.RunDType), nil)
}

// unpack sets the item up to be decoded from w.
func (it *Item) unpack(w *fourbit.Weight) (err error) {
	if it.packed, err = w.Open(); err != nil {
		return err
	}
	it.Shape = w.State.Shape[:]
	it.Spec = w.State.Format
	if it.Class.Conv1D {
		it.pieces = []piece{{item: *it, stride: it.Shape[0]}}
		it.Shape = []int64{it.Shape[1], it.Shape[0]}
	}
	return nil
}

// dequantizedDType is the dtype of the plain checkpoint: the one asked for, or
// the one that most decoded elements had, bfloat16 where no record says.
func dequantizedDType(name string, g *fourbit.Groups) (safetensors.DType, error) {
	all := map[string]safetensors.DType{"bfloat16": safetensors.BF16, "float16": safetensors.F16, "float32": safetensors.F32}
	if name != "" && name != "auto" {
		d, ok := all[name]
		if !ok {
			return 0, &OptionError{fmt.Sprintf("dtype %q: want auto, bfloat16, float16 or float32", name)}
		}
		return d, nil
	}
	best := "bfloat16"
	if g == nil {
		return all[best], nil
	}
	elems := map[string]int64{}
	for _, w := range g.Weights {
		d := w.State.DType.String()
		elems[d] += w.Size.Elems
		if elems[d] > elems[best] {
			best = d
		}
	}
	return all[best], nil
}

// BnbTensors lists a source's tensors as package bnb takes them.
func BnbTensors(src *checkpoint.Source) []fourbit.Tensor {
	out := make([]fourbit.Tensor, len(src.Tensors))
	for i, t := range src.Tensors {
		out[i] = fourbit.Tensor{Tensor: t.Tensor, Shard: t.Shard.Name}
	}
	return out
}
