package search

import (
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// MapFit finds the 8-bit map that double quantization loses least with, for the scales of one weight. Loaders read the map that
// stands beside a weight, and searched scales lie otherwise than those that the dynamic map is made for: of either sign, they
// are in two heaps, with nothing about 0, where it has most of its values. The zero MapFit is ready to use.
//
// The values are those of Lloyd and Max: each is the mean of what is nearest to it. A scale counts by the square of the nested
// constant of its group, by which errors are multiplied. Sums are of float64 in the order of the scales.
type MapFit struct {
	weight, sum [mapBins]float64 // by bins of [-1, 1]: of the scales, and of where they are
}

// mapBins is how fine the sums are: some 60 to a value.
const mapBins = 1 << 14

// mapRounds is how often values are made means. The error falls by little after some tens.
const mapRounds = 60

// Add takes scales, whole groups of them but at the end, and the offset of the weight.
func (f *MapFit) Add(scales []float32, offset float32) {
	for group := range slices.Chunk(scales, kernel.DynamicBlock) {
		var a float32
		for _, s := range group {
			d := s - offset
			a = max(a, max(d, -d))
		}
		if !(a > 0 && a <= math.MaxFloat32) {
			continue
		}
		w := float64(float64(a) * float64(a))
		for _, s := range group {
			y := float64((s - offset) / a)
			b := min(int((y+1)*(mapBins/2)), mapBins-1)
			f.weight[b] += w
			f.sum[b] += float64(w * y)
		}
	}
}

// Map returns the map, in ascending order: the dynamic one where no other loses a tenth less.
func (f *MapFit) Map() [256]float32 {
	dynamic := kernel.DynamicMap()
	weight, sum := running(&f.weight), running(&f.sum)
	total := weight[mapBins]
	if total == 0 {
		return dynamic
	}
	// Between quantiles and equal steps, since the best values are denser where scales are, though less so than these.
	var level [256]float64
	first, last := 0, mapBins-1
	for f.weight[first] == 0 {
		first++
	}
	for f.weight[last] == 0 {
		last--
	}
	b := 0
	for i := range level {
		share := (float64(i) + 0.5) / 256
		for weight[b+1] < float64(total*share) {
			b++
		}
		level[i] = float64(0.5*middle(b)) + float64(0.5*(middle(first)+float64(share*(middle(last)-middle(first)))))
	}
	for range mapRounds {
		var edge [257]int
		for i := 1; i < 256; i++ {
			edge[i] = max(edge[i-1], binOf((level[i-1]+level[i])/2))
		}
		edge[256] = mapBins
		for i := range level {
			if w := weight[edge[i+1]] - weight[edge[i]]; w > 0 {
				level[i] = (sum[edge[i+1]] - sum[edge[i]]) / w
			}
		}
		slices.Sort(level[:])
	}
	var fitted [256]float32
	for i, v := range level {
		fitted[i] = float32(v)
	}
	if f.error(&fitted) > 0.9*f.error(&dynamic) {
		return dynamic
	}
	return fitted
}

func middle(bin int) float64 { return (float64(bin)+0.5)/(mapBins/2) - 1 }
func binOf(y float64) int    { return max(0, min(int((y+1)*(mapBins/2)), mapBins)) }
func running(v *[mapBins]float64) *[mapBins + 1]float64 {
	out := new([mapBins + 1]float64)
	for i, x := range v {
		out[i+1] = out[i] + x
	}
	return out
}

// error is the weighted squared error of a map, with what is in a bin in its middle.
func (f *MapFit) error(m *[256]float32) float64 {
	var e float64
	k := 0
	for b, w := range f.weight {
		y := middle(b)
		for k < 255 && y-float64(m[k]) > float64(m[k+1])-y {
			k++
		}
		d := y - float64(m[k])
		e += float64(w * float64(d*d))
	}
	return e
}
