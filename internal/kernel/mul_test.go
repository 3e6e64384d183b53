package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// fma32 rounds once: against exact arithmetic, with operands that make halfway cases likely.
func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	few := func() float32 {
		// Few bits set, so that sums lie close to a midpoint often.
		f := float32(1) + float32(r.IntN(4))*0x1p-23 + float32(r.IntN(2))*0x1p-12
		return float32(math.Ldexp(float64(f), r.IntN(60)-30)) * float32(1-2*r.IntN(2))
	}
	for i := range 200000 {
		x, y, z := few(), few(), few()
		if i%3 == 0 {
			z = float32(math.Ldexp(float64(z), -40))
		}
		exact := new(big.Float).SetPrec(300).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
		exact.Add(exact, big.NewFloat(float64(z)))
		want, _ := exact.Float32()
		if got := fma32(x, y, z); got != want {
			t.Fatalf("fma32(%b, %b, %b) = %b (want %b)", x, y, z, got, want)
		}
	}
}

func TestMulTile(t *testing.T) {
	b := &buffers{t: t}
	r := rand.New(rand.NewPCG(5, 6))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64() * math.Exp2(float64(r.IntN(20))))
		}
		return v
	}
	for k := range 70 {
		for _, stride := range []int{TileCols, TileCols + 3} {
			a, w := random(k*TileRows), random(k*TileCols)
			c := random((TileRows-1)*stride + TileCols)
			want, wantRow := append([]float32(nil), c...), append([]float32(nil), c[:TileCols]...)
			mulTileGeneric(want, stride, a, w)
			mulRowGeneric(wantRow, a[:k], w)
			assembly(t, func() {
				b.reset(k%2 == 0)
				got, row, ba, bw := b.floats(c), b.floats(c[:TileCols]), b.floats(a), b.floats(w)
				MulTile(got, stride, ba, bw)
				sameFloats(t, "tile", want, got)
				MulRow(row, ba[:k], bw)
				sameFloats(t, "row", wantRow, row)
			})
		}
	}
}

func TestAddScaled(t *testing.T) {
	b := &buffers{t: t}
	r := rand.New(rand.NewPCG(7, 8))
	for n := range 70 {
		c, x, by := make([]float32, n), make([]float32, n+n%3), float32(r.NormFloat64())
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		for i := range c {
			c[i] = float32(r.NormFloat64())
		}
		want := append([]float32(nil), c...)
		for i := range want {
			want[i] += float32(by * x[i])
		}
		assembly(t, func() {
			b.reset(n%2 == 0)
			got, bx, dst := b.floats(c), b.floats(x), b.floats(make([]float32, n))
			AddScaledTo(dst, got, by, bx)
			sameFloats(t, "sum elsewhere", want, dst)
			sameFloats(t, "what is added to", c, got)
			AddScaled(got, by, bx)
			sameFloats(t, "sum", want, got)
			AddScaledTo(bx[:n], b.floats(c), by, bx)
			sameFloats(t, "sum in the place of what is added", want, bx[:n])
		})
		AddScaled(c, by, x)
		sameFloats(t, "sum", want, c)
	}
}
