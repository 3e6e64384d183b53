package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// minScale is bitsandbytes' clamp(min=1e-38).
const minScale float32 = 1e-38

// roundEven rounds to the nearest integer, ties to even, for |v| below 2^22.
func roundEven(v float32) float32 {
	const magic = 3 << 22
	return float32(v+magic) - magic
}

// asymmetric is int4 with a zero point.
func asymmetric(codes []byte, v []float32, x []float32) {
	var lo, hi float32
	for _, x := range x {
		lo, hi = min(lo, x), max(hi, x)
	}
	scale := hi/15 - lo/15 // hi - lo may overflow
	if scale == 0 {
		clear(codes[:len(x)])
		clear(v[:len(x)])
		return
	}
	zero := min(max(roundEven(-lo/scale), 0), 15)
	for i, x := range x {
		q := min(max(roundEven(x/scale)+zero, 0), 15)
		codes[i], v[i] = uint8(q), (q-zero)*scale
	}
}

// e8m0 is the scale of an mxfp4 block: 2^(floor(log2 a) - 2) within E8M0's range, which ends at 2^-127.
func e8m0(a float32) float32 {
	// A subnormal a has the exponent field 0 and falls to the lowest exponent as anything below 2^-124 does.
	e := math.Float32bits(a) >> 23
	if e <= 2 {
		return 0x1p-127
	}
	return math.Float32frombits((e - 2) << 23)
}

// e4m3 rounds a finite s to E4M3FN, nearest even, saturated at 448, and returns code and value.
func e4m3(s float32) (uint8, float32) {
	u := math.Float32bits(s)
	sign := uint8(u >> 31 << 7)
	m := u & 0x7fffffff
	var code uint8
	var v float32
	if m < 0x3c800000 { // below 2^-6: multiples of 2^-9
		k := roundEven(math.Float32frombits(m) * 512)
		code, v = uint8(k), k/512
	} else {
		m = (m + 0x7ffff + m>>20&1) &^ 0xfffff
		m = min(m, 0x43e00000) // 448
		code, v = uint8(m>>20-120<<3), math.Float32frombits(m)
	}
	if sign != 0 {
		v = -v
	}
	return code | sign, v
}

// fp8Block encodes x in units of scale.
func fp8Block(codes []byte, v []float32, x []float32, scale float32) {
	if scale == 0 {
		clear(codes[:len(x)])
		clear(v[:len(x)])
		return
	}
	for i, x := range x {
		c, w := e4m3(x / scale)
		codes[i], v[i] = c, w*scale
	}
}

// int8Inverse is how bitsandbytes spells 1/127 (_ops.py, int8_vectorwise_dequant).
const int8Inverse float32 = 7.874015718698502e-3

// int8Row encodes a part of a row whose largest magnitude is stat, as LLM.int8 does.
func int8Row(codes []byte, v []float32, x []float32, stat float32) {
	if stat == 0 {
		clear(codes[:len(x)])
		clear(v[:len(x)])
		return
	}
	f := min(float32(1/stat)*127, math.MaxFloat32) // torch divides a scalar so; infinite for a subnormal stat
	for i, x := range x {
		q := min(max(roundEven(x*f), -127), 127)
		codes[i], v[i] = uint8(int8(q)), float32(q*stat)*int8Inverse
	}
}

// dynamicChunk is bitsandbytes' blockwise 8-bit code in blocks of 256: the kernel for scales, with no offset.
func dynamicChunk(codes []byte, v []float32, x []float32, nested []float32) {
	nested = nested[:(len(x)+kernel.DynamicBlock-1)/kernel.DynamicBlock]
	kernel.DynamicQuantize(codes[:len(x)], nested, x, 0)
	kernel.DynamicDequantize(v[:len(x)], codes[:len(x)], nested, 0)
}

// maxAbs is the largest magnitude of finite values.
func maxAbs(x []float32) float32 {
	var a, b, c, d uint32 // four, so that they do not wait for each other
	for ; len(x) >= 4; x = x[4:] {
		a = max(a, math.Float32bits(x[0])&0x7fffffff)
		b = max(b, math.Float32bits(x[1])&0x7fffffff)
		c = max(c, math.Float32bits(x[2])&0x7fffffff)
		d = max(d, math.Float32bits(x[3])&0x7fffffff)
	}
	for _, x := range x {
		a = max(a, math.Float32bits(x)&0x7fffffff)
	}
	return math.Float32frombits(max(a, b, c, d))
}
