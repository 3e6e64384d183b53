package kernel

import (
	"fmt"
	"math"
	"testing"
)

func TestE2M1(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	b := &buffers{t: t}
	for _, blockSize := range []int{16, 32, 64} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			rows(t, F32, blockSize, func(r row) {
				x := floats(r.src)
				blocks := (r.n + blockSize - 1) / blockSize
				scale, absmax := make([]float32, blocks), make([]float32, blocks)
				absmaxGeneric(F32, absmax, r.src, blockSize)
				for i, a := range absmax {
					scale[i] = []float32{a / 6, 0, 1, float32(math.Ldexp(1, -127)), a, a / 100}[(r.n+i)%6]
				}
				// Ties and their neighbours on either side of 0.
				for i := range x {
					if a := scale[i/blockSize]; i%3 == 1 && a > 0 {
						u := math.Float32bits([]float32{0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7}[(i+r.n)%8] * a)
						x[i] = math.Float32frombits((u+uint32(i%5)-2)&0x7fffffff | uint32(i&1)<<31)
					}
				}
				want, wantV := make([]byte, (r.n+1)/2), make([]float32, r.n)
				e2m1Generic(want, wantV, x, scale, blockSize)
				assembly(t, func() {
					b.reset(r.n%5 == 4)
					got, v := b.bytes(len(want)), b.floats(make([]float32, r.n))
					clear(got)
					E2M1(got, v, b.floats(x), b.floats(scale), blockSize)
					sameBytes(t, "codes", want, got)
					sameFloats(t, "values", wantV, v)
				})
			})
		})
	}
}

// The nearest of all values, and of two equally near the one with an even code.
func TestE2M1Nearest(t *testing.T) {
	for u := uint32(0); u < infBits; u += 1 << 17 {
		for d := range uint32(3) {
			x := math.Float32frombits(max(u, 1) + d - 1)
			want := 0
			for c, v := range e2m1Values {
				was, is := math.Abs(float64(x-e2m1Values[want])), math.Abs(float64(x-v))
				if is < was || is == was && c%2 == 0 {
					want = c
				}
			}
			if x > 6 {
				want = 7
			}
			if got, neg := e2m1Code(x, 1), e2m1Code(-x, 1); int(got) != want || neg != got|8 {
				t.Fatalf("codes of %v and its negative are %d, %d (want %d, %d)", x, got, neg, want, want|8)
			}
		}
	}
}
