package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPairSums(t *testing.T) {
	b := &buffers{t: t}
	rows(t, F32, 64, func(r row) {
		x := floats(r.src)
		v := slices.Clone(x)
		rng := rand.New(rand.NewPCG(r.seed, 8))
		for i := range v {
			v[i] *= 1 + float32(rng.Float64()-0.5)/4
			if !r.finite && rng.IntN(20) == 0 {
				v[i] = special[rng.IntN(len(special))]
			}
		}
		var l lanes
		pairSumsGeneric(&l, x, v)
		want := l.sum(r.n)
		assembly(t, func() {
			b.reset(r.n%5 == 4)
			var got Sums
			PairSums(&got, b.floats(x), b.floats(v))
			sameSums(t, "sums", &want, &got)
		})
	})
}

func TestDeltaSums(t *testing.T) {
	b := &buffers{t: t}
	rows(t, F32, 64, func(r row) {
		w := floats(r.src)
		d, v := make([]float32, len(w)), make([]float32, len(w))
		rng := rand.New(rand.NewPCG(r.seed, 9))
		for i, x := range w {
			d[i] = x * float32(rng.NormFloat64()) / 8
			v[i] = x + d[i]*(1+float32(rng.Float64()-0.5)/4)
			if !r.finite && rng.IntN(20) == 0 {
				d[i] = special[rng.IntN(len(special))]
			}
		}
		by := float32(rng.NormFloat64())
		var want Deltas
		var l deltaLanes
		deltaSumsGeneric(&l, w, d, by, v)
		l.addTo(&want)
		assembly(t, func() {
			b.reset(r.n%5 == 4)
			var got Deltas
			DeltaSums(&got, b.floats(w), b.floats(d), by, b.floats(v))
			sums := func(d Deltas) *Sums { return &Sums{X2: d.W2, W2: d.D2, XW: d.DR, E2: d.E2, Max: float64(d.Max)} }
			sameSums(t, "sums", sums(want), sums(got))
		})
	})
}

// The sums are what their definition says, on a few numbers that can be added up by hand.
func TestDeltaSumsOf(t *testing.T) {
	implementations(t, func() {
		w, d, v := make([]float32, 19), make([]float32, 19), make([]float32, 19)
		for i := range w {
			w[i], d[i], v[i] = 2, -3, 1 // by 0.5: -1.5 was to be added, -1 was
		}
		want := Deltas{W2: 19 * 4, D2: 19 * 2.25, DR: 19 * 1.5, E2: 19 * 0.25, Max: 1.5}
		var got Deltas
		DeltaSums(&got, w, d, 0.5, v)
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// Decoded values have the sums of the codes they come from, to the bit.
func TestPairSumsOfDecoded(t *testing.T) {
	implementations(t, func() {
		for _, n := range []int{1, 63, 64, 1000, 5001} {
			for _, typ := range allTypes {
				src := patterns[0].elements(uint64(n), BF16, n, 64)
				absmax, codes := make([]float32, (n+63)/64), make([]byte, (n+1)/2)
				Quantize(typ, BF16, codes, absmax, src, 64)
				x, v := make([]float32, n), make([]float32, n)
				Widen(x, src, BF16)
				DequantizeF32(typ, v, codes, absmax, 64)
				var want, got Sums
				ErrorSums(&want, typ, BF16, src, codes, absmax, 64)
				PairSums(&got, x, v)
				sameSums(t, typ.String(), &want, &got)
			}
		}
	})
}
