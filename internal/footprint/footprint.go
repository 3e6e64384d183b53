// Package footprint counts what a checkpoint takes: tensors, parameters, bytes
// and measured bits per parameter, from headers alone.
package footprint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// A Tensor is one logical tensor: a plain one, or a weight that bitsandbytes or
// another method that package decode undoes has quantized, with its sidecars.
type Tensor struct {
	Name   string
	File   string
	DType  string  // as stored; of a quantized weight its format, e.g. "nf4,block=64,dq" or "fp8,f8_e4m3"
	Shape  []int64 // logical
	Params int64
	Bytes  int64 // sidecars included
	Quant  bool  // by bitsandbytes
	Other  bool  // by another method

	codes int64 // of Bytes, codes and constants of a quantized weight
}

// A Class sums the tensors of one dtype or format.
type Class struct {
	DType   string
	Tensors int
	Params  int64
	Bytes   int64
}

// A Footprint is what a checkpoint takes.
type Footprint struct {
	Method      string // what quantized it; "" for a plain checkpoint
	FourBit     bool   // Method is bitsandbytes 4-bit
	Stale       string // what config.json says of the method otherwise than the tensors; "" if nothing
	Tensors     []Tensor
	Classes     []Class // most bytes first
	Problems    []*fourbit.Problem
	Params      int64 // logical
	Bytes       int64
	QuantParams int64
	QuantBytes  int64 // tables and records included
	CodeBytes   int64 // of them codes and constants
	OtherParams int64 // of weights that another method has quantized
	OtherBytes  int64 // scales included
}

// Bits is the bits per parameter, measured: 8 x bytes / logical parameters.
func (f *Footprint) Bits() float64 { return bits(f.Bytes, f.Params) }

// QuantBits is that of the quantized weights with all their parts.
func (f *Footprint) QuantBits() float64 { return bits(f.QuantBytes, f.QuantParams) }

// CodeBits is that of their codes and constants alone.
func (f *Footprint) CodeBits() float64 { return bits(f.CodeBytes, f.QuantParams) }

// OtherBits is that of the other tensors.
func (f *Footprint) OtherBits() float64 { return bits(f.OtherBytes, f.OtherParams) }

// Plain16 is what the same parameters take with the quantized ones in 16 bits.
func (f *Footprint) Plain16() int64 {
	return f.Bytes - f.QuantBytes + 2*f.QuantParams - f.OtherBytes + 2*f.OtherParams
}

func bits(bytes, n int64) float64 {
	if n == 0 {
		return 0
	}
	return 8 * float64(bytes) / float64(n)
}

// Of reads the headers of src and the quant_state records of its 4-bit
// weights.
func Of(src *checkpoint.Source) (*Footprint, error) {
	f := &Footprint{}
	q, stale, err := weights.Quantized(src)
	if err != nil {
		return nil, err
	}
	if q != nil {
		f.Method, f.FourBit = q.Label, q.FourBit
	}
	if stale != nil {
		f.Stale = weights.Stale(stale, q)
	}
	stored := weights.BnbTensors(src)
	groups, err := fourbit.Group(stored)
	if err != nil {
		return nil, err
	}
	f.Problems = groups.Problems
	f.Tensors = make([]Tensor, 0, len(groups.Weights)+len(groups.Plain))
	counted := make(map[string]bool)
	for _, w := range groups.Weights {
		t := Tensor{Name: w.Name, File: w.Packed.Shard, DType: w.State.Format.String(), Shape: w.State.Dims(), Params: w.Size.Elems, Quant: true}
		for _, s := range []fourbit.Tensor{w.Packed, w.Absmax, w.QuantMap, w.NestedAbsmax, w.NestedQuantMap, w.QuantState} {
			if s.Tensor != nil {
				t.Bytes += s.Size()
				counted[s.Name] = true
			}
		}
		t.codes = w.Packed.Size() + w.Absmax.Size()
		if w.NestedAbsmax.Tensor != nil {
			t.codes += w.NestedAbsmax.Size()
		}
		f.Tensors = append(f.Tensors, t)
	}
	for _, w := range fourbit.Int8Weights(stored) {
		t := Tensor{Name: w.Weight.Name, File: w.Weight.Shard, DType: "int8", Shape: w.Weight.Shape, Params: w.Weight.Elems(), Quant: true}
		for _, s := range []fourbit.Tensor{w.Weight, w.Scales, w.Format} {
			if s.Tensor != nil {
				t.Bytes += s.Size()
				counted[s.Name] = true
			}
		}
		t.codes = w.Weight.Size() + w.Scales.Size()
		f.Tensors = append(f.Tensors, t)
	}
	scheme := f.decoded(src, q, counted)
	f.Problems = slices.DeleteFunc(f.Problems, func(p *fourbit.Problem) bool { return p.Kind == fourbit.EightBit && counted[p.Tensor] })
	plain := make(map[string]bool, len(groups.Plain))
	for _, t := range groups.Plain {
		plain[t.Name] = true
	}
	for _, t := range src.Tensors {
		if counted[t.Name] {
			continue
		}
		x := Tensor{Name: t.Name, File: t.Shard.Name, DType: t.DType.String(), Shape: t.Shape, Bytes: t.Size()}
		// Not of a packed weight that lacks another part, nor a scale of activations.
		if plain[t.Name] && (scheme == nil || !scheme.Consumes(t.Name)) {
			x.Params = t.Elems()
		}
		f.Tensors = append(f.Tensors, x)
	}
	slices.SortFunc(f.Tensors, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	f.total()
	return f, nil
}

// decoded adds the weights that another method than bitsandbytes has quantized, each with its scales; nil where there are none, or
// nobody can undo the method.
func (f *Footprint) decoded(src *checkpoint.Source, q *fourbit.Quantized, counted map[string]bool) *decode.Scheme {
	scheme, err := weights.OtherScheme(src, q)
	if err != nil || scheme == nil {
		return nil // inspect describes what others refuse
	}
	for i := range scheme.Logical {
		l := &scheme.Logical[i]
		codes, ok := src.Lookup(l.Parts[0])
		if !ok {
			continue
		}
		t := Tensor{Name: l.Name, File: l.File, DType: scheme.Method + "," + strings.ToLower(codes.DType.String()), Shape: l.Shape, Params: 1,
			Bytes: l.SrcBytes, Other: true}
		for _, n := range l.Shape {
			t.Params *= n
		}
		for _, part := range l.Parts {
			counted[part] = true
		}
		f.Tensors = append(f.Tensors, t)
	}
	return scheme
}

// Select is the footprint of the tensors that keep is true for. Problems are
// those of the whole checkpoint.
func (f *Footprint) Select(keep func(name string) bool) *Footprint {
	out := &Footprint{Method: f.Method, FourBit: f.FourBit, Stale: f.Stale, Problems: f.Problems}
	for _, t := range f.Tensors {
		if keep(t.Name) {
			out.Tensors = append(out.Tensors, t)
		}
	}
	out.total()
	return out
}

// total sums the tensors, by class and in all.
func (f *Footprint) total() {
	byType := map[string]*Class{}
	for i := range f.Tensors {
		t := &f.Tensors[i]
		c := byType[t.DType]
		if c == nil {
			c = &Class{DType: t.DType}
			byType[t.DType] = c
		}
		c.Tensors++
		c.Params += t.Params
		c.Bytes += t.Bytes
		f.Params += t.Params
		f.Bytes += t.Bytes
		if t.Quant {
			f.QuantParams += t.Params
			f.QuantBytes += t.Bytes
			f.CodeBytes += t.codes
		}
		if t.Other {
			f.OtherParams += t.Params
			f.OtherBytes += t.Bytes
		}
	}
	for _, c := range byType {
		f.Classes = append(f.Classes, *c)
	}
	slices.SortFunc(f.Classes, func(a, b Class) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.DType, b.DType))
	})
}
