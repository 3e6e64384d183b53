package search

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// lost is the squared error of scales after double quantization with a map.
func lost(m *[256]float32, scales []float32, offset float32) (sum float64) {
	codes, nested := make([]byte, len(scales)), make([]float32, (len(scales)+255)/256)
	kernel.MapQuantize(m, codes, nested, scales, offset)
	got := make([]float32, len(scales))
	kernel.MapDequantize(m, got, codes, nested, offset)
	for i := range got {
		d := float64(got[i]) - float64(scales[i])
		sum += d * d
	}
	return sum
}

// Of scales of either sign a fitted map loses a fraction of what the dynamic one does, of positive ones less too; it is in
// ascending order and does not depend on how the scales are cut into parts.
func TestMapFit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	for name, c := range map[string]struct {
		scale func() float32
		most  float64 // of what the dynamic map loses
	}{
		"signed":   {func() float32 { return float32((1 - 2*float64(r.IntN(2))) * (1 + 0.2*r.NormFloat64())) }, 0.3},
		"positive": {func() float32 { return float32(math.Exp(0.3 * r.NormFloat64())) }, 0.6},
		"few":      {func() float32 { return float32(r.IntN(7)) }, 0.1},
	} {
		for _, n := range []int{300, 20000} {
			scales := make([]float32, n)
			var mean float64
			for i := range scales {
				scales[i] = c.scale()
				mean += float64(scales[i]) / float64(n)
			}
			offset := float32(mean)
			f := new(MapFit)
			f.Add(scales, offset)
			m, dynamic := f.Map(), kernel.DynamicMap()
			if !slices.IsSorted(m[:]) || !(m[0] >= -1 && m[255] <= 1) {
				t.Errorf("%s: not in ascending order within [-1, 1]: %v", name, m)
			}
			a, b := lost(&dynamic, scales, offset), lost(&m, scales, offset)
			t.Logf("%s, %d scales: %.3f of what the dynamic map loses", name, n, b/a)
			if b > c.most*a {
				t.Errorf("%s, %d scales: error %.4g, with the dynamic map %.4g", name, n, b, a)
			}
			parts := new(MapFit)
			for part := range slices.Chunk(scales, 512) {
				parts.Add(part, offset)
			}
			if parts.Map() != m {
				t.Errorf("%s: another map from parts", name)
			}
		}
	}
	// What says nothing leaves the dynamic map.
	for _, scales := range [][]float32{nil, {3, 3, 3}, {float32(math.Inf(1)), 1}, {float32(math.NaN())}} {
		f := new(MapFit)
		f.Add(scales, 3)
		if f.Map() != kernel.DynamicMap() && len(scales) < 2 {
			t.Errorf("%v: a map was fitted", scales)
		}
	}
}
