package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Histograms that were merged have the quantiles of all that was counted, within the width of a bin, and the order does not matter.
func TestErrorHistogram(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var all []float64
	var parts []ErrorHistogram
	for i := range 9 {
		x, v := make([]float32, 1+i*700), make([]float32, 1+i*700)
		for k := range x {
			x[k] = float32(rng.NormFloat64() * math.Pow(10, float64(i%5-3)))
			switch rng.IntN(20) {
			case 0:
				v[k] = x[k]
			case 1:
				v[k] = x[k] + math.SmallestNonzeroFloat32
			}
			all = append(all, math.Abs(float64(x[k]-v[k])))
		}
		c := new(errorCounts)
		c.add(x, v)
		parts = append(parts, c.histogram())
	}
	slices.Sort(all)
	forward := Merged(parts...)
	slices.Reverse(parts)
	if backward := Merged(parts...); !slices.Equal(forward, backward) {
		t.Error("the order of merging matters")
	}
	var one errorParts
	for range 40 {
		for _, h := range parts {
			one.add(h)
		}
	}
	shares := []float64{0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1}
	got := forward.Quantiles(shares...)
	for i, q := range shares {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if math.Abs(got[i]-want) > 0.046*want+1e-40 {
			t.Errorf("quantile %g: %g, of the errors themselves %g", q, got[i], want)
		}
	}
	if many := Merged(one...).Quantiles(shares[1:]...); !cmp.Equal(many, got[1:], cmpopts.EquateApprox(1e-12, 0)) {
		t.Errorf("quantiles of 40 times as many: %v, want %v", many, got[1:])
	}
	if n := len(forward); n > 3*errorBins {
		t.Errorf("%d bytes", n)
	}
	if q := Merged(ErrorHistogram{}, ErrorHistogram{}).Quantiles(0.5, 1); len(q) != 2 || !math.IsNaN(q[0]) || !math.IsNaN(q[1]) {
		t.Errorf("quantiles of nothing: %g", q)
	}
}

// Counts are exact, those of the first and the last bin and such above 32 bits too, and merging changes nothing that was merged.
func TestMergedErrors(t *testing.T) {
	a, b := ErrorsOf(map[float32]int32{0: 3, 0.5: 7}), ErrorsOf(map[float32]int32{0.5: 1, math.MaxFloat32: 1 << 30})
	wantA, wantB := slices.Clone(a), slices.Clone(b)
	sum := Merged(a, b, a, b, b, b, b)
	if !slices.Equal(a, wantA) || !slices.Equal(b, wantB) {
		t.Error("merging changed what was merged")
	}
	type count struct {
		Bin int
		N   int64
	}
	var got []count
	for u := sum.unpack(); u.bin < errorBins; u.next() {
		got = append(got, count{u.bin, u.n})
	}
	want := []count{{0, 6}, {int(math.Float32bits(0.5) >> errorShift), 19}, {int(math.Float32bits(math.MaxFloat32) >> errorShift), 5 << 30}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bins (-want +got):\n%s", diff)
	}
}
