package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// f16ToF32 widens exactly. A signalling NaN becomes quiet, as hardware conversions make it.
func f16ToF32(h uint16) float32 {
	sign, u := uint32(h&0x8000)<<16, uint32(h&0x7fff)
	switch {
	case u < 0x0400:
		// Counting in units of 2^-24 keeps float32 subnormals, which processors are slow with, out of it.
		return math.Float32frombits(sign | math.Float32bits(float32(u)*0x1p-24))
	case u > 0x7c00:
		return math.Float32frombits(sign | infBits | 0x00400000 | u<<13)
	case u == 0x7c00:
		return math.Float32frombits(sign | infBits)
	}
	return math.Float32frombits(sign | (u<<13 + (127-15)<<23))
}

// f32ToBF16 rounds to nearest even. A NaN keeps its sign and the top of its payload and becomes quiet.
func f32ToBF16(f float32) uint16 {
	u := math.Float32bits(f)
	if u&0x7fffffff > infBits {
		return uint16(u>>16) | 0x0040
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// f32ToF16 rounds to nearest even, through the subnormals. A NaN keeps its sign and the top of its payload and becomes
// quiet.
func f32ToF16(f float32) uint16 {
	u := math.Float32bits(f)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > infBits:
		return sign | 0x7e00 | uint16(u>>13&0x03ff)
	case u >= 0x47800000: // 2^16 and above, infinity included
		return sign | 0x7c00
	case u < 0x38800000:
		// Below 2^-14 the result is a multiple of 2^-24, which is the unit in the last place of a float32 in [0.5, 1):
		// the addition rounds as is asked for and leaves the result in the low bits.
		return sign | uint16(math.Float32bits(math.Float32frombits(u)+0.5)-0x3f000000)
	}
	// Rebiasing by 15-127 is the subtraction; a carry out of the mantissa goes into the exponent, up to infinity.
	return sign | uint16((u-0x38000000+0x0fff+u>>13&1)>>13)
}

// e4m3 and e5m2 widen every FP8 value exactly.
var e4m3, e5m2 = fp8Tables()

func fp8Tables() (e4m3, e5m2 [256]float32) {
	for i := range 256 {
		// E5M2 is the upper byte of a half. E4M3 has exponents biased by 7 where the half's are by 15, so its bits in a
		// half's place are 2^-8 of its value; its only special value is the NaN.
		e5m2[i] = f16ToF32(uint16(i) << 8)
		e4m3[i] = f16ToF32(uint16(i&0x7f)<<7|uint16(i&0x80)<<8) * 256
		if i&0x7f == 0x7f {
			e4m3[i] = math.Float32frombits(0x7fc00000 | uint32(i&0x80)<<24)
		}
	}
	return e4m3, e5m2
}

// widen is load for every source encoding. A float64 is rounded to float32 first, as torch rounds it on the way to 16
// bits.
func widen(e Elem, dst []float32, src []byte) {
	switch e {
	case F64:
		src = src[:8*len(dst)]
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case F8E4M3:
		for i, c := range src[:len(dst)] {
			dst[i] = e4m3[c]
		}
	case F8E5M2:
		for i, c := range src[:len(dst)] {
			dst[i] = e5m2[c]
		}
	default:
		load(e, dst, src)
	}
}

// store rounds the elements of src to a run dtype.
func store(e Elem, dst []byte, src []float32) {
	switch e {
	case F32:
		dst = dst[:4*len(src)]
		for i, f := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(f))
		}
	case BF16:
		dst = dst[:2*len(src)]
		for i, f := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], f32ToBF16(f))
		}
	case F16:
		dst = dst[:2*len(src)]
		for i, f := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], f32ToF16(f))
		}
	default:
		panic(fmt.Sprintf("kernel: %v is no run dtype", e))
	}
}

// convertGeneric is the specification of Convert's bytes.
func convertGeneric(dst []byte, de Elem, src []byte, se Elem, n int) {
	var buf [piece]float32
	ds, ss := de.Size(), se.Size()
	if de == se {
		copy(dst[:n*ds], src[:n*ss])
		return
	}
	for lo := 0; lo < n; lo += piece {
		v := buf[:min(piece, n-lo)]
		widen(se, v, src[lo*ss:])
		store(de, dst[lo*ds:], v)
	}
}

// finitePrefix returns a number of leading elements that are certain to be finite, all but a few of them if all are. It
// looks at eight bytes at a time: adding 1 to an exponent of all ones carries into the bit above it, whose own value is
// masked away first.
func finitePrefix(e Elem, src []byte) int {
	var exponent, one uint64
	switch e {
	case F32:
		exponent, one = 0x7f8000007f800000, 0x0080000000800000
	case BF16:
		exponent, one = 0x7f807f807f807f80, 0x0080008000800080
	case F16:
		exponent, one = 0x7c007c007c007c00, 0x0400040004000400
	default:
		return 0
	}
	carry := exponent << 1 &^ exponent
	n := 0
	for ; len(src) >= 32; src = src[32:] {
		a := binary.LittleEndian.Uint64(src)&exponent + one
		b := binary.LittleEndian.Uint64(src[8:])&exponent + one
		c := binary.LittleEndian.Uint64(src[16:])&exponent + one
		d := binary.LittleEndian.Uint64(src[24:])&exponent + one
		if (a|b|c|d)&carry != 0 {
			break
		}
		n += 32
	}
	return n / e.Size()
}

// finite reports whether element i of src is neither NaN nor infinite.
func finite(e Elem, src []byte, i int) bool {
	switch e {
	case F32:
		return binary.LittleEndian.Uint32(src[4*i:])&0x7f800000 != 0x7f800000
	case BF16:
		return binary.LittleEndian.Uint16(src[2*i:])&0x7f80 != 0x7f80
	case F16:
		return binary.LittleEndian.Uint16(src[2*i:])&0x7c00 != 0x7c00
	case F64:
		return binary.LittleEndian.Uint64(src[8*i:])&(0x7ff<<52) != 0x7ff<<52
	case F8E4M3:
		return src[i]&0x7f != 0x7f
	case F8E5M2:
		return src[i]&0x7c != 0x7c
	}
	panic(fmt.Sprintf("kernel: unknown encoding %v", e))
}
