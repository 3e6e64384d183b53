package report

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/measure"
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
			Results: []measure.Result{{Sums: t.Written, Codes: size.Data, Bytes: size.Total}, {Sums: t.Other, Codes: other.Data, Bytes: other.Total}}}
	}
	r := New(list)
	r.Command = "convert"
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
	default:
		r.Formats = []Format{formatNamed(tensors[0].Format), formatNamed(Versus(tensors[0].Format))}
	}
	return r, nil
}

func formatNamed(f bnb.Format) Format {
	kind := map[nf4.Type]measure.Kind{nf4.NF4: measure.NF4, nf4.FP4: measure.FP4}[f.Type]
	return Format{Name: f.String(), Kind: kind.String(), BlockSize: f.Block(), DoubleQuant: !f.NoDoubleQuant, Points: measure.Points(kind)}
}
