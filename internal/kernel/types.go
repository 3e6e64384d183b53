package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Type is a 4-bit code.
type Type uint8

// The two 4-bit types that checkpoints hold, and two to compare them with.
const (
	NF4 Type = iota
	FP4
	AF4
	Int4
	numTypes
)

// String returns the name of the type, for nf4 and fp4 that of bitsandbytes.
func (t Type) String() string {
	if t < numTypes {
		return [...]string{NF4: "nf4", FP4: "fp4", AF4: "af4", Int4: "int4"}[t]
	}
	return fmt.Sprintf("kernel.Type(%d)", uint8(t))
}

// Elem is an element encoding, little-endian in memory.
type Elem uint8

// F32, BF16 and F16 are the run dtypes, which every kernel takes. The others are sources of Convert alone.
const (
	F32 Elem = iota
	BF16
	F16
	F64
	F8E4M3 // E4M3FN of arXiv 2209.05433: no infinity, NaN is 0x7f and 0xff
	F8E5M2 // E5M2 of arXiv 2209.05433: IEEE-like, with infinity
)

var elems = [...]struct {
	name string
	size int
}{{"f32", 4}, {"bf16", 2}, {"f16", 2}, {"f64", 8}, {"f8_e4m3", 1}, {"f8_e5m2", 1}}

// String returns a short name, for benchmarks and panics.
func (e Elem) String() string {
	if int(e) < len(elems) {
		return elems[e].name
	}
	return fmt.Sprintf("kernel.Elem(%d)", uint8(e))
}

// Size returns the bytes one element takes.
func (e Elem) Size() int {
	return elems[e].size
}

// infBits is the float32 infinity. The absmax of a block, compared as an integer, reaches it exactly if the block holds
// a NaN or an infinity.
const infBits = 0x7f800000

// minScale is bitsandbytes' clamp(min=1e-38), a subnormal float32.
const minScale = 0x006ce3ee

// piece is how many elements the generic kernels widen at a time: small enough to stay in the first-level cache, and a
// divisor or a multiple of every block size.
const piece = 256

// load widens len(dst) elements of a run dtype.
func load(e Elem, dst []float32, src []byte) {
	switch e {
	case F32:
		src = src[:4*len(dst)]
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		src = src[:2*len(dst)]
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F16:
		src = src[:2*len(dst)]
		for i := range dst {
			dst[i] = f16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	default:
		panic(fmt.Sprintf("kernel: %v is no run dtype", e))
	}
}

// maxBits returns the largest magnitude of src as float32 bits; infBits or above if src holds a NaN or an infinity.
// Magnitudes of one encoding order as their integers do, so nothing is widened before the end.
func maxBits(e Elem, src []byte) uint32 {
	var m uint32
	switch e {
	case F32:
		for ; len(src) >= 4; src = src[4:] {
			m = max(m, binary.LittleEndian.Uint32(src)&0x7fffffff)
		}
		return m
	case BF16:
		for ; len(src) >= 2; src = src[2:] {
			m = max(m, uint32(binary.LittleEndian.Uint16(src))&0x7fff)
		}
		return m << 16
	case F16:
		for ; len(src) >= 2; src = src[2:] {
			m = max(m, uint32(binary.LittleEndian.Uint16(src))&0x7fff)
		}
		return math.Float32bits(f16ToF32(uint16(m)))
	}
	panic(fmt.Sprintf("kernel: %v is no run dtype", e))
}
