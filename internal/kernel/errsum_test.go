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
