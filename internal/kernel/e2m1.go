package kernel

import "math"

// e2m1Values are the magnitudes by code.
var e2m1Values = [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}

// The midpoints all lie on multiples of 2^-2 of their power of two, so the upper bits of a float32 decide. e2m1Above
// counts the midpoints that a magnitude must exceed, by its bits less one; e2m1From those that it may equal. NaNs are
// quiet when they come here and count as 0.
var e2m1Above, e2m1From = e2m1Tables()

const e2m1Shift = 21

func e2m1Tables() (above, from [2048]uint8) {
	for i := range uint32(infBits>>e2m1Shift + 1) {
		x := math.Float32frombits(i << e2m1Shift) // where the cell begins
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

// e2m1Code is the code of x in units of scale.
func e2m1Code(x, scale float32) uint8 {
	u := math.Float32bits(x)
	m := math.Float32bits(math.Float32frombits(u&0x7fffffff) / scale)
	return e2m1Above[(m-1)>>e2m1Shift] + e2m1From[m>>e2m1Shift] | uint8(u>>31<<3)
}

// e2m1Generic is the specification of E2M1.
func e2m1Generic(codes []byte, v, x, scale []float32, blockSize int) {
	for b, a := range scale {
		lo, hi := b*blockSize, min((b+1)*blockSize, len(x))
		in, out := x[lo:hi], v[lo:hi]
		c := codes[lo/2 : (hi+1)/2]
		if a == 0 {
			clear(c)
			clear(out)
			continue
		}
		var w [16]float32
		for i, t := range e2m1Values {
			w[i] = t * a
			w[i+8] = float32(math.Copysign(float64(w[i]), -1))
		}
		for i := 0; i+1 < len(in); i += 2 {
			p, q := e2m1Code(in[i], a), e2m1Code(in[i+1], a)
			c[i/2] = p<<4 | q
			out[i], out[i+1] = w[p&15], w[q&15]
		}
		if n := len(in); n%2 != 0 {
			p := e2m1Code(in[n-1], a)
			c[n/2], out[n-1] = p<<4, w[p&15]
		}
	}
}
