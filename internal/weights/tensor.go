package weights

import (
	"fmt"
	"io"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Values are the elements of a tensor as bytes, row-major and little-endian. They may be read from several goroutines, at
// whole elements. Prefetch and Drop are hints about bytes that will be and will not be read again.
type Values interface {
	io.ReaderAt
	Prefetch(off, n int64)
	Drop(off, n int64)
}

// A Rounder is Values that yields elements in another dtype too, rounded once: n of them from first on.
type Rounder interface {
	ReadAs(dst []byte, e kernel.Elem, first int64, n int) error
}

// A Tensor is one tensor of a model, in the elements that it had before anything quantized it.
//
// Whoever changes a tensor on its way, as merging an adapter does, copies it and puts Values of its own, and their DType, in
// the place of those that it reads.
type Tensor struct {
	Name  string
	File  string            // that it lies in, or the first of what it was decoded from
	Class arch.Class        // of a model directory; else the zero value
	DType safetensors.DType // of the elements as Values yields them
	Shape []int64           // of Values
	Bytes int64             // in the source, scales and records included

	Values Values
	// Parts are the matrices [out, in] of a stack of experts [experts, in, matrices*out] that a quantized checkpoint holds one
	// by one, in the order of the experts and of the matrices side by side in the stack. Values is nil then.
	Parts []Tensor
	// Of are the matrices that a stack was joined of, see [Model.Join], in the order in which Values has them.
	Of []*Tensor

	Method string // that it was decoded from, as quant_method spells it; "" if it is stored as it is
	// Unrounded says that the weight is quantized as it is, not rounded to the dtype of the run first: that of a merge is not, where
	// bitsandbytes quantizes what PEFT has added.
	Unrounded bool
	Turned    bool // the shape is [out, in] where an unquantized checkpoint has [in, out]
}

// Elems is the number of elements.
func (t *Tensor) Elems() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Elem is the type of the elements in the terms of package kernel, F32 for all that is no float of 16 or 64 bits.
func (t *Tensor) Elem() kernel.Elem {
	if e, ok := ElemOf(t.DType); ok {
		return e
	}
	return kernel.F32
}

// Read fills dst with elements from first on.
func (t *Tensor) Read(dst []byte, first int64) error {
	if err := stream.ReadFull(t.Values, dst, first*int64(t.DType.Bits()/8)); err != nil {
		return fmt.Errorf("%s: read %s: %w", t.File, t.Name, err)
	}
	return nil
}

// ReadRows fills dst with rows, of the last dimension, from row on.
func (t *Tensor) ReadRows(dst []byte, row int64) error {
	return t.Read(dst, row*t.Shape[len(t.Shape)-1])
}

// ReadAs fills dst with n elements from first on, rounded to e, and returns the lowest index of one that is not finite, -1 if
// all are. One that overflows is a [*ValueError]; so is one that is not finite of a weight in 4 bits, whose source was. raw
// is room for n elements of the tensor's own dtype, which is a float of at most 32 bits, see [Tensor.Floats].
func (t *Tensor) ReadAs(dst []byte, e kernel.Elem, raw []byte, first int64, n int) (nonFinite int64, err error) {
	if r, ok := rounder(t.Values); ok {
		if err := r.ReadAs(dst, e, first, n); err != nil {
			return -1, fmt.Errorf("%s: %w", t.File, err)
		}
		if at := kernel.FirstNonFinite(e, dst, n); at >= 0 {
			return -1, t.bad(first, at, dst, e, e)
		}
		return -1, nil
	}
	elem := t.Elem()
	if elem == e {
		if err := t.Read(dst[:n*e.Size()], first); err != nil {
			return -1, err
		}
		if at := kernel.FirstNonFinite(e, dst, n); at >= 0 {
			return first + int64(at), nil
		}
		return -1, nil
	}
	raw = raw[:n*elem.Size()]
	if err := t.Read(raw, first); err != nil {
		return -1, err
	}
	overflow, at := kernel.Convert(dst, e, raw, elem, n)
	switch {
	case overflow >= 0:
		return -1, t.bad(first, overflow, raw, elem, e)
	case at >= 0:
		return first + int64(at), nil
	}
	return -1, nil
}

// bad is the error of element at of values, of which the first is element first of the tensor, that e does not hold.
func (t *Tensor) bad(first int64, at int, values []byte, elem, e kernel.Elem) error {
	d := map[kernel.Elem]safetensors.DType{kernel.BF16: safetensors.BF16, kernel.F16: safetensors.F16, kernel.F32: safetensors.F32}[e]
	of, index := t.Part(first + int64(at))
	return &ValueError{Tensor: of.Name, File: of.File, Index: index, Shape: of.Shape, Value: ValueAt(values, elem, at), DType: d}
}

// Floats is the tensor with float64 presented as float32, the way torch converts a double on its way to 16 bits.
func (t Tensor) Floats() Tensor {
	if t.DType == safetensors.F64 && t.Values != nil {
		t.Values, t.DType = narrowed{t.Values}, safetensors.F32
	}
	return t
}

// Begin returns the values for a run that begins to read them. Where the source lies in the page cache, they take no hints:
// what was there before the run stays.
func (t *Tensor) Begin() Values {
	const small = 1 << 20
	if c, ok := t.Values.(interface{ Cached() bool }); ok && (t.Bytes <= small || c.Cached()) {
		return unhinted{t.Values}
	}
	return t.Values
}

// unhinted are values that make no use of hints.
type unhinted struct{ io.ReaderAt }

func (unhinted) Prefetch(off, n int64) {}
func (unhinted) Drop(off, n int64)     {}

// Unhinted makes Values of a reader.
func Unhinted(r io.ReaderAt) Values { return unhinted{r} }

func rounder(v Values) (Rounder, bool) {
	if u, ok := v.(unhinted); ok {
		r, ok := u.ReaderAt.(Rounder)
		return r, ok
	}
	r, ok := v.(Rounder)
	return r, ok
}

// stored are the values of a tensor that lies in a file as it is.
type stored struct{ checkpoint.Tensor }

// narrowed presents float64 as float32.
type narrowed struct{ Values }

func (r narrowed) ReadAt(p []byte, off int64) (int, error) {
	if off%4 != 0 || len(p)%4 != 0 {
		return 0, fmt.Errorf("weights: internal error: unaligned read of %d bytes at %d", len(p), off)
	}
	var buf [8192]byte
	for done := 0; done < len(p); {
		b := buf[:min(len(buf), 2*(len(p)-done))]
		if err := stream.ReadFull(r.Values, b, 2*(off+int64(done))); err != nil {
			return done, err
		}
		done += narrow(p[done:], b)
	}
	return len(p), nil
}

func (r narrowed) Prefetch(off, n int64) { r.Values.Prefetch(2*off, 2*n) }
func (r narrowed) Drop(off, n int64)     { r.Values.Drop(2*off, 2*n) }

func (r narrowed) Cached() bool {
	c, ok := r.Values.(interface{ Cached() bool })
	return ok && c.Cached()
}
