package weights

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A ValueError reports a weight that cannot be quantized or written: a NaN or an infinity, or a
// number too large for the run dtype.
type ValueError struct {
	File, Tensor string
	Index        int64 // in row-major order
	Shape        []int64
	Value        float64
	DType        safetensors.DType // what it was to be rounded to
}

func (e *ValueError) Error() string {
	at := fmt.Sprintf("%s: tensor %q: element %d (%s)", e.File, e.Tensor, e.Index, subscript(e.Index, e.Shape))
	if math.IsNaN(e.Value) || math.IsInf(e.Value, 0) {
		return fmt.Sprintf("%s is %v; want finite weights", at, e.Value)
	}
	return fmt.Sprintf("%s is %g, which overflows %s; want a run dtype that holds it", at, e.Value, TorchName(e.DType))
}

// subscript writes a row-major index as "[3, 17]".
func subscript(i int64, shape []int64) string {
	s := make([]int64, len(shape))
	for d := len(shape) - 1; d >= 0; d-- {
		s[d] = i % max(shape[d], 1)
		i /= max(shape[d], 1)
	}
	out := "["
	for d, v := range s {
		if d > 0 {
			out += ", "
		}
		out += fmt.Sprint(v)
	}
	return out + "]"
}

// TorchName is the name that torch gives a float dtype.
func TorchName(d safetensors.DType) string {
	switch d {
	case safetensors.BF16:
		return "bfloat16"
	case safetensors.F16:
		return "float16"
	case safetensors.F32:
		return "float32"
	case safetensors.F64:
		return "float64"
	}
	return strings.ToLower(d.String())
}

// ElemOf is how the kernels read elements of a float dtype; ok is false for any other.
func ElemOf(d safetensors.DType) (e kernel.Elem, ok bool) {
	switch d {
	case safetensors.BF16:
		return kernel.BF16, true
	case safetensors.F16:
		return kernel.F16, true
	case safetensors.F32:
		return kernel.F32, true
	case safetensors.F64:
		return kernel.F64, true
	}
	return 0, false
}

// ValueAt is element i of src.
func ValueAt(src []byte, e kernel.Elem, i int) float64 {
	var b [4]byte
	kernel.Convert(b[:], kernel.F32, src[i*e.Size():][:e.Size()], e, 1)
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[:])))
}

// narrow writes the float32 of the float64 in src and returns how many bytes they take.
func narrow(dst, src []byte) int {
	for i := 0; i < len(src); i += 8 {
		v := float32(math.Float64frombits(binary.LittleEndian.Uint64(src[i:])))
		binary.LittleEndian.PutUint32(dst[i/2:], math.Float32bits(v))
	}
	return len(src) / 2
}
