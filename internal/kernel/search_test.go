package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// fitCandidates are reciprocals of scales for a block, of either sign; the last leaves no value within [-1, 1].
func fitCandidates(x []float32) []float32 {
	var a float32
	for _, v := range x {
		a = max(a, max(v, -v))
	}
	inv := 1 / max(a, 1e-37)
	return []float32{inv, -inv, 0.5 * inv, 1.3 * inv, -1.7 * inv, 1000 * inv}
}

func TestGridFit(t *testing.T) {
	b := &buffers{t: t}
	for _, typ := range allTypes {
		rows(t, F32, 64, func(r row) {
			if !r.finite || r.n > 200 && r.n%32 > 1 {
				return
			}
			x := floats(r.src)
			rng := rand.New(rand.NewPCG(r.seed, 9))
			h, hx := make([]float32, r.n), make([]float32, r.n)
			for i, v := range x {
				h[i] = float32(rng.ExpFloat64())
				hx[i] = h[i] * v
			}
			inv := fitCandidates(x)
			wantWQ, wantQQ := make([]float32, len(inv)), make([]float32, len(inv))
			gridFitGeneric(typ, wantWQ, wantQQ, x, hx, h, inv)
			assembly(t, func() {
				b.reset(r.n%3 == 0)
				wq, qq := b.floats(make([]float32, len(inv))), b.floats(make([]float32, len(inv)))
				GridFit(typ, wq, qq, b.floats(x), b.floats(hx), b.floats(h), b.floats(inv))
				sameFloats(t, "wq", wantWQ, wq)
				sameFloats(t, "qq", wantQQ, qq)
			})
		})
	}
}

// The sums are those of the codes that Codes finds, and the scale they give is the best for these codes.
func TestGridFitMeaning(t *testing.T) {
	for _, typ := range allTypes {
		src := patterns[0].elements(3, F32, 64, 64)
		x := floats(src)
		h, hx := make([]float32, 64), make([]float32, 64)
		for i, v := range x {
			h[i] = 1 + float32(i%5)
			hx[i] = h[i] * v
		}
		for _, inv := range fitCandidates(x) {
			var wq, qq [1]float32
			GridFit(typ, wq[:], qq[:], x, hx, h, []float32{inv})
			codes := make([]byte, 32)
			Codes(typ, F32, codes, []float32{1 / inv}, src, 64)
			q := make([]float32, 64)
			DequantizeF32(typ, q, codes, []float32{1}, 64)
			var a, c float64
			for i := range q {
				a += float64(hx[i]) * float64(q[i])
				c += float64(h[i]) * float64(q[i]) * float64(q[i])
			}
			if math.Abs(a-float64(wq[0])) > 1e-5*math.Abs(a) || math.Abs(c-float64(qq[0])) > 1e-5*c {
				t.Errorf("%v at scale %v: sums %v and %v (want %v and %v)", typ, 1/inv, wq[0], qq[0], a, c)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	b := &buffers{t: t}
	for _, typ := range allTypes {
		rows(t, F32, 64, func(r row) {
			if !r.finite || r.n > 200 {
				return
			}
			x := floats(r.src)
			rng := rand.New(rand.NewPCG(r.seed, 10))
			scales := make([]float32, r.n)
			for i, v := range x {
				scales[i] = v * []float32{1, -1, 0.3, 1.5, -3, 0, 1e-30}[rng.IntN(7)]
			}
			codes, values := make([]byte, r.n), make([]float32, r.n)
			nearestGeneric(typ, codes, values, x, scales)
			assembly(t, func() {
				b.reset(r.n%3 == 0)
				c, v := b.bytes(r.n), b.floats(x)
				Nearest(typ, c, v, b.floats(x), b.floats(scales))
				sameBytes(t, "codes", codes, c)
				sameFloats(t, "values", values, v)
			})
		})
	}
}

// With the scale of a whole block the codes are those of Codes.
func TestNearestMeaning(t *testing.T) {
	src := patterns[0].elements(3, F32, 64, 64)
	for _, typ := range allTypes {
		for _, scale := range []float32{1, -2.5} {
			scales, codes, values, packed := make([]float32, 64), make([]byte, 64), make([]float32, 64), make([]byte, 32)
			for i := range scales {
				scales[i] = scale
			}
			Nearest(typ, codes, values, floats(src), scales)
			Codes(typ, F32, packed, scales[:1], src, 64)
			decoded := make([]float32, 64)
			DequantizeF32(typ, decoded, packed, scales[:1], 64)
			for i, c := range codes {
				if p := packed[i/2] >> (4 * (^i & 1)) & 15; c != p || values[i] != decoded[i] {
					t.Fatalf("%v: element %d has code %d and value %v (want %d and %v)", typ, i, c, values[i], p, decoded[i])
				}
			}
		}
	}
}
