package measure

import (
	"math"
	"slices"
)

// formatSet is a list of formats with what they share.
type formatSet struct {
	formats []Format
	blocks  []int  // block sizes whose largest magnitudes are kept, ascending; never empty
	double  []bool // whether the size is used with double quantization
	rows    bool   // some format has one scale a row
	tensor  bool   // some format has one scale for the tensor
	codes   []int  // number of codes of each format
}

// histogramBlock is the block size by which weights are scaled for their histogram.
const histogramBlock = 64

func newFormatSet(formats []Format) *formatSet {
	s := &formatSet{formats: formats, codes: make([]int, len(formats))}
	s.blocks = append(s.blocks, histogramBlock)
	for i, f := range formats {
		t := traits[f.Kind]
		s.codes[i] = 1 << t.bits
		if t.kept {
			s.blocks = append(s.blocks, f.BlockSize)
		}
		s.rows = s.rows || t.scope == perRow
		s.tensor = s.tensor || t.scope == perTensor
	}
	slices.Sort(s.blocks)
	s.blocks = slices.Compact(s.blocks)
	s.double = make([]bool, len(s.blocks))
	for _, f := range formats {
		if f.DoubleQuant {
			s.double[s.block(f.BlockSize)] = true
		}
	}
	return s
}

// block is the index of a block size in s.blocks.
func (s *formatSet) block(size int) int { return slices.Index(s.blocks, size) }

// ErrorBins is the length of an error histogram: 16 bins an octave over all of float32.
const ErrorBins = 1 << 12

// An ErrorHistogram counts |e| by the upper bits of its float32; nil if nothing was counted.
type ErrorHistogram []int32

const errorShift = 19

func (h ErrorHistogram) add(x, v []float32) {
	v = v[:len(x)]
	for i, x := range x {
		h[math.Float32bits(x-v[i])<<1>>1>>errorShift&(ErrorBins-1)]++
	}
}

// Merge adds the counts of o, making room where there is none.
func (h *ErrorHistogram) Merge(o ErrorHistogram) {
	if o == nil {
		return
	}
	if *h == nil {
		*h = make(ErrorHistogram, ErrorBins)
	}
	for i, n := range o {
		(*h)[i] = saturate(int64((*h)[i]) + int64(n))
	}
}

func saturate(n int64) int32 { return int32(min(n, math.MaxInt32)) }

// Quantile is the |e| below which the share q of the counted errors lies, to within a bin (4.5 %); NaN without any.
func (h ErrorHistogram) Quantile(q float64) float64 {
	var total int64
	for _, n := range h {
		total += int64(n)
	}
	if total == 0 {
		return math.NaN()
	}
	rank := q * float64(total)
	var below int64
	for i, n := range h {
		if n == 0 {
			continue
		}
		if float64(below)+float64(n) >= rank {
			lo := float64(math.Float32frombits(uint32(i) << errorShift))
			hi := float64(math.Float32frombits(uint32(i+1) << errorShift))
			return lo + (hi-lo)*max(rank-float64(below), 0)/float64(n)
		}
		below += int64(n)
	}
	return math.NaN()
}

// Entropy is that of the codes in bits: how much of the code's width carries information.
func Entropy(counts []int64) float64 {
	var total, sum float64
	for _, n := range counts {
		total += float64(n)
	}
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / total
			sum -= p * math.Log2(p)
		}
	}
	return sum
}
