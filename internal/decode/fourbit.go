package decode

import (
	"fmt"
	"io"
	"sync"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// FourBit reads a weight that bitsandbytes stored in 4 bits (backends/default/ops.py, dequantize_4bit;
// functional.py, dequantize_blockwise). It may be used by any number of goroutines.
type FourBit struct {
	Name          string // for errors, as are those of the parts
	Codes, Absmax io.ReaderAt
	Type          kernel.Type
	BlockSize     int

	Nested []float32 // scales of the scales; nil without double quantization, where Absmax are scales in float32
	Group  int       // scales of one of them
	Map    [256]float32
	Offset float32
}

// fourBitSpace is what one call needs beyond its dst.
type fourBitSpace struct {
	codes, bytes []byte
	scale        []float32
}

var fourBitSpaces = sync.Pool{New: func() any { return new(fourBitSpace) }}

func room[T any](p *[]T, n int) []T {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	return (*p)[:n]
}

// ReadCodes fills dst with codes, two in a byte, from element first on, which is even.
func (w *FourBit) ReadCodes(dst []byte, first int64) error {
	if err := stream.ReadFull(w.Codes, dst, first/2); err != nil {
		return fmt.Errorf("read codes of %s: %w", w.Name, err)
	}
	return nil
}

// Scales fills dst with the scales that blocks from first on are multiplied with.
func (w *FourBit) Scales(dst []float32, first int64) error {
	s := fourBitSpaces.Get().(*fourBitSpace)
	defer fourBitSpaces.Put(s)
	return w.scales(s, dst, first)
}

func (w *FourBit) scales(s *fourBitSpace, dst []float32, first int64) error {
	width := int64(1)
	if w.Nested == nil {
		width = 4
	}
	b := room(&s.bytes, len(dst)*int(width))
	if err := stream.ReadFull(w.Absmax, b, width*first); err != nil {
		return fmt.Errorf("read scales of %s: %w", w.Name, err)
	}
	if w.Nested == nil {
		kernel.Widen(dst, b, kernel.F32)
		return nil
	}
	standard := w.Group == doublequant.BlockSize && w.Map == doublequant.Map()
	for done := 0; done < len(dst); {
		at := first + int64(done)
		g := at / int64(w.Group)
		k := min(len(dst)-done, int(int64(w.Group)-at%int64(w.Group)))
		if standard {
			kernel.DynamicDequantize(dst[done:done+k], b[done:done+k], w.Nested[g:g+1], w.Offset)
		} else {
			for i := done; i < done+k; i++ {
				dst[i] = float32(w.Map[b[i]]*w.Nested[g]) + w.Offset
			}
		}
		done += k
	}
	return nil
}

// Decode fills dst with n elements in the given dtype from first on, which begins a block.
func (w *FourBit) Decode(dst []byte, e kernel.Elem, first int64, n int) error {
	s := fourBitSpaces.Get().(*fourBitSpace)
	defer fourBitSpaces.Put(s)
	codes := room(&s.codes, (n+1)/2)
	if err := w.ReadCodes(codes, first); err != nil {
		return err
	}
	scale := room(&s.scale, (n+w.BlockSize-1)/w.BlockSize)
	if err := w.scales(s, scale, first/int64(w.BlockSize)); err != nil {
		return err
	}
	kernel.Dequantize(w.Type, e, dst, codes, scale, n, w.BlockSize)
	return nil
}

// ReadAs fills dst with n elements in the given dtype from first on, which may lie within a block.
func (w *FourBit) ReadAs(dst []byte, e kernel.Elem, first int64, n int) error {
	size, block := e.Size(), int64(w.BlockSize)
	if within := first % block; within > 0 {
		k := int(min(int64(n), block-within))
		whole := make([]byte, (int(within)+k)*size)
		if err := w.Decode(whole, e, first-within, int(within)+k); err != nil {
			return err
		}
		copy(dst, whole[int(within)*size:])
		dst, first, n = dst[k*size:], first+int64(k), n-k
	}
	if n == 0 {
		return nil
	}
	return w.Decode(dst, e, first, n)
}

func (w *FourBit) decode(dst []byte, first int64, n int) error {
	return w.ReadAs(dst, kernel.F32, first, n)
}

// fourBitReader yields the elements in F32, or in another dtype, rounded once.
type fourBitReader struct {
	*elements
	*FourBit
}

// Logical is the weight of that shape as one of a Scheme. parts are its stored tensors, of bytes in all, codes first.
func (w *FourBit) Logical(shape []int64, file string, parts []string, bytes int64) Logical {
	return Logical{Name: w.Name, Shape: shape, DType: safetensors.F32, File: file, Parts: parts, SrcBytes: bytes,
		reader: fourBitReader{newElements(w, 4, elems(shape)), w}}
}

// NewScheme is the scheme of weights that another package has found.
func NewScheme(method, label string, logical []Logical) *Scheme {
	s := &Scheme{Method: method, Label: label, Logical: logical, consumed: make(map[string]bool)}
	for i := range logical {
		for _, p := range logical[i].Parts {
			s.consumed[p] = true
		}
	}
	return s
}
