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
