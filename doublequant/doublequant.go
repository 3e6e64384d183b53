package doublequant

import (
	"fmt"
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// BlockSize is how many scales share a nested constant, the nested_blocksize of a checkpoint. Loaders take no other.
const BlockSize = kernel.DynamicBlock

// BitsPerScale is the storage of a scale of a large tensor: its code and its share of a float32 constant.
const BitsPerScale = 8 + 32./BlockSize

// Map returns the 256 values of the signed dynamic map in ascending order, a checkpoint's nested_quant_map.
func Map() [256]float32 { return kernel.DynamicMap() }

// NestedLen returns how many nested constants n scales take: one for every 256, the last of which may cover fewer.
func NestedLen(n int) int {
	b := n / BlockSize
	if n%BlockSize > 0 {
		b++
	}
	return b
}

// Mean takes the scales of a tensor in block order, in as many parts as is convenient, and gives their offset. The zero
// Mean is ready to use.
type Mean struct {
	sum float64
	n   int
}

// Add takes the scales that follow. They are added one by one to one float64, so the parts make no difference.
func (m *Mean) Add(scales []float32) {
	for _, s := range scales {
		m.sum += float64(s)
	}
	m.n += len(scales)
}

// Offset returns the mean of the scales so far as a float32; 0 if there are none.
func (m *Mean) Offset() float32 {
	if m.n == 0 {
		return 0
	}
	return float32(m.sum / float64(m.n))
}

// Offset returns the offset of a tensor with these scales.
func Offset(scales []float32) float32 {
	var m Mean
	m.Add(scales)
	return m.Offset()
}

// NonFiniteError says that a scale or the offset is a NaN or an infinity, or that their difference is.
type NonFiniteError struct {
	Index  int // of the first such scale
	Scale  float32
	Offset float32
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("doublequant: scale %d is %v with offset %v, which cannot be quantized", e.Index, e.Scale, e.Offset)
}

// AppendQuantize quantizes scales with the offset of the whole tensor, see Mean, appends their codes and nested constants
// to the two slices and returns these; nil slices are as good as any. A tensor may be appended in parts, of which all but
// the last must be multiples of BlockSize. After an error the slices are returned as they were.
func AppendQuantize(codes []byte, nested []float32, scales []float32, offset float32) ([]byte, []float32, error) {
	n, b := len(codes)+len(scales), len(nested)+NestedLen(len(scales))
	moreCodes, moreNested := slices.Grow(codes, len(scales))[:n], slices.Grow(nested, b-len(nested))[:b]
	if err := Quantize(moreCodes[len(codes):], moreNested[len(nested):], scales, offset); err != nil {
		return codes, nested, err
	}
	return moreCodes, moreNested, nil
}

// AppendDequantize appends the scales that the codes stand for to scales and returns it.
func AppendDequantize(scales []float32, codes []byte, nested []float32, offset float32) ([]float32, error) {
	more := slices.Grow(scales, len(codes))[:len(scales)+len(codes)]
	if err := Dequantize(more[len(scales):], codes, nested, offset); err != nil {
		return scales, err
	}
	return more, nil
}

// Quantize quantizes scales with the offset of the whole tensor. codes must have as many bytes as there are scales, and
// nested NestedLen(len(scales)) values. A tensor may be done in parts, all but the last multiples of BlockSize. After a
// *NonFiniteError codes and nested hold what is of no use.
func Quantize(codes []byte, nested []float32, scales []float32, offset float32) error {
	if err := check(codes, nested, len(scales)); err != nil {
		return err
	}
	kernel.DynamicQuantize(codes, nested, scales, offset)
	for b, m := range nested {
		if finite(m) {
			continue
		}
		for i, s := range scales[b*BlockSize:] {
			if !finite(s - offset) {
				return &NonFiniteError{Index: b*BlockSize + i, Scale: s, Offset: offset}
			}
		}
	}
	return nil
}

// Dequantize decodes len(scales) scales. codes must have as many bytes, and nested NestedLen(len(scales)) values.
func Dequantize(scales []float32, codes []byte, nested []float32, offset float32) error {
	if err := check(codes, nested, len(scales)); err != nil {
		return err
	}
	kernel.DynamicDequantize(scales, codes, nested, offset)
	return nil
}

func check(codes []byte, nested []float32, n int) error {
	if len(codes) != n {
		return fmt.Errorf("doublequant: codes have %d bytes (want %d, one a scale)", len(codes), n)
	}
	if want := NestedLen(n); len(nested) != want {
		return fmt.Errorf("doublequant: nested has %d values (want %d for %d scales)", len(nested), want, n)
	}
	return nil
}

func finite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }
