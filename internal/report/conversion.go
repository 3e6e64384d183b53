package report

import (
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/measure"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Converted is one quantized tensor of a conversion, with the errors of what was written and of what it is compared with.
type Converted struct {
	Name      string
	Kind      string // the module's own name: q_proj, down_proj, ...
	Shape     []int64
	Format    bnb.Format // as written
	ReadTwice bool       // larger than the memory budget: read a second time for the figures
	Written   kernel.Sums
	Other     kernel.Sums
	Weighted  quantize.WeightedSums
}

// Versus is the format that a conversion compares its own with: the other type, in the same blocks and scales. Of scales that
// were chosen better it is absmax in the same blocks, before double quantization.
func Versus(f bnb.Format) bnb.Format {
	if f.Scale != bnb.AbsMax {
		f.Scale, f.NoDoubleQuant = bnb.AbsMax, true
		return f
	}
	f.Type = map[nf4.Type]nf4.Type{nf4.NF4: nf4.FP4, nf4.FP4: nf4.NF4}[f.Type]
	return f
}

// FromConversion is the report of a conversion's own figures. Its two formats are what was written and Versus;
// where tensors differ in format each says its own.
func FromConversion(tensors []Converted) (*Report, error) {
	list := make([]measure.Tensor, len(tensors))
	mixed := false
	for i := range tensors {
		t := &tensors[i]
		size, err := t.Format.Size(t.Shape...)
		if err != nil {
			return nil, err
		}
		other, err := Versus(t.Format).Size(t.Shape...)
		if err != nil {
			return nil, err
		}
		mixed = mixed || t.Format != tensors[0].Format
		list[i] = measure.Tensor{Name: t.Name, Kind: t.Kind, Layer: measure.Layer(t.Name), Shape: t.Shape, Elements: t.Written.N, Measured: t.Written.N,
			Results: []measure.Result{
				{Sums: t.Written, Codes: size.Data, Bytes: size.Total, WeightedE2: t.Weighted.Written, WeightedX2: t.Weighted.Weights},
				{Sums: t.Other, Codes: other.Data, Bytes: other.Total, WeightedE2: t.Weighted.Other, WeightedX2: t.Weighted.Weights}}}
	}
	r := New(list)
	r.Command = "convert"
	r.Gain = gain(tensors, &r.Total)
	for i := range tensors {
		t, row := &tensors[i], &r.Tensors[i]
		row.ReadTwice, row.Histogram = t.ReadTwice, nil
		if mixed {
			row.Formats[0].Format, row.Formats[1].Format = t.Format.String(), Versus(t.Format).String()
		}
	}
	switch {
	case len(tensors) == 0:
	case mixed:
		r.Formats = []Format{{Name: "as written"}, {Name: "other type"}}
		if r.Gain != nil {
			r.Formats[1].Name = "absmax"
		}
	default:
		r.Formats = []Format{formatNamed(tensors[0].Format), formatNamed(Versus(tensors[0].Format))}
	}
	return r, nil
}

// gain compares the two formats of the total; nil where a tensor's second is not absmax.
func gain(tensors []Converted, total *Row) *Gain {
	if len(tensors) == 0 || slices.ContainsFunc(tensors, func(t Converted) bool { return t.Format.Scale == bnb.AbsMax }) {
		return nil
	}
	less := func(of func(*Figures) *float64) *float64 {
		written, absmax := of(&total.Formats[0]), of(&total.Formats[1])
		if written == nil || absmax == nil {
			return nil
		}
		return number(1 - *written**written/(*absmax**absmax))
	}
	return &Gain{less(func(f *Figures) *float64 { return f.RelRMSE }), less(func(f *Figures) *float64 { return f.WeightedRR })}
}

func formatNamed(f bnb.Format) Format {
	kind := map[nf4.Type]measure.Kind{nf4.NF4: measure.NF4, nf4.FP4: measure.FP4}[f.Type]
	return Format{Name: f.String(), Kind: kind.String(), BlockSize: f.Block(), DoubleQuant: !f.NoDoubleQuant, Points: measure.Points(kind)}
}
