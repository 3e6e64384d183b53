package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// DequantizeOptions say how a 4-bit checkpoint is decoded. The zero value is
// the default.
type DequantizeOptions struct {
	DType        string // "" or "auto": what quant_state says, and the rest as it lies; "bfloat16", "float16", "float32" for all
	MaxShardSize int64  // bytes of tensor data a file; 0: checkpoint.DefaultMaxShardSize

	AllowIncomplete bool // what the checkpoint lacks, or has too much, is a warning
	Stored          bool // with the dtype auto, what no method quantized keeps the dtype that it has
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
	m, err := weights.Open(src)
	if err != nil {
		return nil, err
	}
	if m.Scheme != nil && len(m.Scheme.Logical) > 0 {
		return PlanPlain(m, opt)
	}
	e := &SourceError{Path: src.Path, Msg: "nothing to dequantize: the weights are plain"}
	switch {
	case m.FourBit != nil:
		e.Msg = "nothing to dequantize: no tensor has a bitsandbytes 4-bit quant_state, though it is quantized by " + m.Quantized.Label
	case m.Stale != nil:
		e.Msg += fmt.Sprintf(", though %s: %s says %s", m.Stale.File, m.Stale.Where, m.Stale.Label)
		e.Hint = weights.StaleHint(src, m.Stale)
	}
	return nil, e
}

// PlanPlain is a conversion of an opened model in which every tensor is kept.
func PlanPlain(m *weights.Model, opt DequantizeOptions) (*Plan, error) {
	p := planOf(m)
	if m.Scheme != nil && m.FourBit == nil {
		p.notices = append(p.notices, "the source is quantized by "+m.Scheme.Label)
	}
	if m.Stale != nil {
		p.warnings = append(p.warnings, weights.Stale(m.Stale, m.Quantized))
	}
	var err error
	if p.runDType, err = dequantizedDType(opt.DType, m.FourBit); err != nil {
		return nil, err
	}
	if err := p.checkComplete(m, opt.AllowIncomplete); err != nil {
		return nil, err
	}
	if run, err := p.configDType(); err == nil && opt.auto() && m.FourBit == nil {
		p.runDType = run
	}
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if !supported(t.DType) {
			return nil, &SourceError{Path: m.Source.Path, Tensor: t.Name, Msg: fmt.Sprintf("%s without scales to decode it by", t.DType)}
		}
		p.add(m, t, decision{})
		p.plain(&p.items[i], m, opt)
	}
	p.widen(m.FourBit, opt)
	return p, p.layOutPlain(opt)
}

// plain settles the dtype of a tensor. What was in 4 bits has that of the run, and so has a stack of which some was.
func (p *Plan) plain(it *Item, m *weights.Model, opt DequantizeOptions) {
	parts := it.Parts
	if parts == nil {
		parts = []weights.Tensor{*it.Tensor}
	}
	p.stats.KeptCount--
	for i := range parts {
		if parts[i].Method == "" {
			p.stats.KeptCount++
			continue
		}
		p.stats.QuantCount++
		p.stats.QuantParams += parts[i].Elems()
	}
	switch {
	case it.Parts != nil || it.Method != "" && m.FourBit != nil:
		it.Out = p.runDType
	case it.Method != "":
		p.keep(it, 0)
	default:
		p.keepDequantized(it, opt)
	}
}

// widen gives float32 to what bitsandbytes decodes to it in a model of 16 bits that holds it so: the routers of LongCat, in float16.
func (p *Plan) widen(g *fourbit.Groups, opt DequantizeOptions) {
	if g == nil || !opt.auto() {
		return
	}
	wide := map[string]bool{}
	for _, w := range g.Weights {
		wide[w.Name] = w.State.DType == nf4.Float32
	}
	for i := range p.items {
		if it := &p.items[i]; it.Method != "" && wide[it.Name] && it.Class.Float32(arch.Transformers5, p.runDType == safetensors.F16) {
			it.Out = safetensors.F32
		}
	}
}

// keepDequantized settles the dtype of a tensor that was not quantized: unless
// one is asked for, that which it has. In a bare file, say of a whole pipeline,
// nobody asked for another, and in a model what is in float32 is so for a reason.
func (p *Plan) keepDequantized(it *Item, opt DequantizeOptions) {
	if opt.auto() && (p.config == nil || opt.Stored || it.DType == safetensors.F32) {
		it.Out = it.DType
		return
	}
	p.keep(it, 0)
}

func (o DequantizeOptions) auto() bool { return o.DType == "" || o.DType == "auto" }

// layOutPlain gives every tensor of a plain checkpoint its place.
func (p *Plan) layOutPlain(opt DequantizeOptions) error {
	entries := make([]checkpoint.Group, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		entries[i] = checkpoint.Group{Name: it.Name, Entries: []safetensors.Entry{{Name: it.Name, DType: it.Out, Shape: it.Shape}}}
		it.OutBytes = groupSize(entries[i].Entries)
		p.stats.OutBytes += it.OutBytes
	}
	if err := p.split(entries, opt.MaxShardSize); err != nil {
		return err
	}
	dtype := weights.TorchName(p.runDType)
	if opt.Stored && opt.auto() && p.stats.QuantCount == 0 {
		dtype = "" // what config.json says
	}
	return p.directory(dtype, nil)
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
