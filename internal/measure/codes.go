package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// book is a code of 16 values in ascending order, scaled by the block's largest magnitude.
type book struct {
	value     [16]float32
	threshold [16]float32 // between value i and i+1; the last is +Inf
	cell      [4 * cells]uint8
}

// cells is how many cells the search cuts one unit into: fewer than one threshold lies in a cell.
const cells = 512

// af4Values are bitsandbytes' (functional.py, get_4bit_type("af4"), from arXiv 2306.06965, appendix E).
var af4Values = [16]float32{-1, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0,
	0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1}

var af4Book, int4Book = newBook(af4Values[:]), newBook(sevenths())

func sevenths() []float32 {
	v := make([]float32, 15)
	for i := range v {
		v[i] = float32(i-7) / 7
	}
	return v
}

// newBook takes up to 16 values; missing codes have the last one and are never chosen.
func newBook(values []float32) *book {
	b := new(book)
	for i := range b.value {
		b.value[i] = values[min(i, len(values)-1)]
		b.threshold[i] = float32(math.Inf(1))
		if i < len(values)-1 {
			b.threshold[i] = (values[i] + values[i+1]) / 2
		}
	}
	for c := range b.cell {
		for b.threshold[b.cell[c]] <= 1 && cellOf(b.threshold[b.cell[c]]) < uint32(c) {
			b.cell[c]++
		}
	}
	return b
}

func cellOf(v float32) uint32 { return uint32(int32(v*cells+cells)) % (4 * cells) }

// encode writes codes of x and their values times scale, for one block with the largest magnitude absmax. A full block
// is scaled as bitsandbytes does, by the reciprocal; a short one is divided.
func (b *book) encode(codes []byte, v []float32, x []float32, absmax, scale float32, full bool) {
	var w [16]float32
	for i, t := range b.value {
		w[i] = t * scale
	}
	codes, v = codes[:len(x)], v[:len(x)]
	f := max(absmax, minScale)
	if !full {
		for i, x := range x {
			c := b.search(x / f)
			codes[i], v[i] = c, w[c&15]
		}
		return
	}
	f = 1 / f
	for i, x := range x {
		c := b.search(x * f)
		codes[i], v[i] = c, w[c&15]
	}
}

// minScale is bitsandbytes' clamp(min=1e-38).
const minScale float32 = 1e-38

func (b *book) search(s float32) uint8 {
	c := b.cell[cellOf(s)]
	if s > b.threshold[c&15] {
		c++
	}
	return c
}

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

// e2m1Values by code without the sign.
var e2m1Values = [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}

// The thresholds between magnitudes of E2M1 all lie on multiples of 2^-2 of their power of two, so the upper bits of a
// float32 decide. A tie goes to the code with an even mantissa: below, where the lower code is even (0.25, 1.25, 2.5, 5),
// and there x must exceed the threshold; else above (0.75, 1.75, 3.5).
var e2m1Above, e2m1From = e2m1Tables()

const e2m1Shift = 21

func e2m1Tables() (above, from [2048]uint8) {
	for i := range above {
		// Magnitudes of this cell begin at x; cells of negative float32 bits stand for "one below 0".
		x := math.Float32frombits(uint32(i) << e2m1Shift)
		if i >= 1024 {
			continue
		}
		for _, t := range []float32{0.25, 1.25, 2.5, 5} {
			if x >= t {
				above[i]++
			}
		}
		for _, t := range []float32{0.75, 1.75, 3.5} {
			if x >= t {
				from[i]++
			}
		}
	}
	return above, from
}

// e2m1 is the code of a finite s, saturated at 6, with the sign in bit 3.
func e2m1(s float32) uint8 {
	u := math.Float32bits(s)
	m := u & 0x7fffffff
	return e2m1Above[(m-1)>>e2m1Shift] + e2m1From[m>>e2m1Shift] | uint8(u>>31<<3)
}

// e2m1Block encodes a block in units of scale. multiply says that the unit is a power of two, whose reciprocal is exact.
func e2m1Block(codes []byte, v []float32, x []float32, scale, inverse float32, multiply bool) {
	if scale == 0 {
		clear(codes[:len(x)])
		clear(v[:len(x)])
		return
	}
	var w [16]float32
	for i, t := range e2m1Values {
		w[i], w[i+8] = t*scale, -t*scale
	}
	codes, v = codes[:len(x)], v[:len(x)]
	if multiply {
		for i, x := range x {
			c := e2m1(x * inverse)
			codes[i], v[i] = c, w[c&15]
		}
		return
	}
	for i, x := range x {
		c := e2m1(x / scale)
		codes[i], v[i] = c, w[c&15]
	}
}

// e8m0 is the scale of an mxfp4 block: 2^(floor(log2 a) - 2) within E8M0's range, and its reciprocal.
func e8m0(a float32) (scale, inverse float32) {
	// A subnormal a has the exponent field 0 and falls to the lowest exponent as anything below 2^-125 does.
	e := int(math.Float32bits(a)>>23) - 127 - 2
	e = min(max(e, -127), 127)
	return float32(math.Ldexp(1, e)), float32(math.Ldexp(1, -e))
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
	var m uint32
	for _, x := range x {
		m = max(m, math.Float32bits(x)&0x7fffffff)
	}
	return math.Float32frombits(m)
}
