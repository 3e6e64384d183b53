package quantize

import (
	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// A Sample is some of the elements of a weight, in the run dtype, to tell from them what error a format leaves.
type Sample struct {
	Type kernel.Type
	Elem kernel.Elem
	Cols int64

	moments []float32 // of the columns; one of 1 where they are not known
	weights search.Weights
	pieces  []piece
}

type piece struct {
	first  int64
	values []byte
	x      []float32
}

// NewSample returns an empty sample of a weight of which the second moments of the inputs are known, or nil.
func NewSample(t kernel.Type, e kernel.Elem, cols int64, moments []float32) (*Sample, error) {
	s := &Sample{Type: t, Elem: e, Cols: cols, moments: moments}
	if moments == nil {
		s.moments = []float32{1}
	}
	var err error
	s.weights, err = search.NewWeights(moments)
	return s, err
}

// Add takes elements of the weight from element first on, the first of a block.
func (s *Sample) Add(first int64, values []byte) {
	x := make([]float32, len(values)/s.Elem.Size())
	kernel.Widen(x, values, s.Elem)
	s.pieces = append(s.pieces, piece{first, values, x})
}

// Len is the number of elements.
func (s *Sample) Len() (n int64) {
	for _, p := range s.pieces {
		n += int64(len(p.x))
	}
	return n
}

// Squares is the sum of the squared elements, times the second moments of their columns.
func (s *Sample) Squares() (sum float64) {
	for _, p := range s.pieces {
		sum += kernel.WeightedSquares(p.x, nil, s.moments, int(p.first%int64(len(s.moments))))
	}
	return sum
}

// Errors are the sums of squared errors, times the second moments, that scales of a method leave in blocks of a size: as they
// are, and double-quantized, as if there were no other scales than those of the sample. Those of feedback and of
// mse-columns are taken for those of mse-signed, on which they build.
func (s *Sample) Errors(scale bnb.Scale, blockSize int) (single, double float64, err error) {
	if scale == bnb.Feedback || scale == bnb.MSEColumns {
		scale = bnb.MSESigned
	}
	m, err := For(scale)
	if err != nil {
		return 0, 0, err
	}
	var scales []float32
	codes := make([][]byte, len(s.pieces))
	for i, p := range s.pieces {
		at := len(scales)
		scales = append(scales, make([]float32, (len(p.x)+blockSize-1)/blockSize)...)
		codes[i] = make([]byte, (len(p.x)+1)/2)
		m.Scales(s.panel(p, blockSize), scales[at:], codes[i])
	}
	offset, table := doublequant.Offset(scales), doublequant.Map()
	if m.Needs(&Weight{}).FitMap {
		f := new(search.MapFit)
		f.Add(scales, offset)
		table = f.Map()
	}
	level2, nested := make([]byte, len(scales)), make([]float32, doublequant.NestedLen(len(scales)))
	kernel.MapQuantize(&table, level2, nested, scales, offset)
	decoded := make([]float32, len(scales))
	kernel.MapDequantize(&table, decoded, level2, nested, offset)
	return s.left(m, blockSize, scales, codes), s.left(m, blockSize, decoded, codes), nil
}

func (s *Sample) panel(p piece, blockSize int) *Panel {
	return &Panel{First: p.first, N: len(p.x), Cols: s.Cols, Values: p.values, Elem: s.Elem, Type: s.Type, BlockSize: blockSize,
		Inputs: Inputs{weights: s.weights}}
}

// left is the error with scales as they are decoded. Those of a method of one pass go with the codes that it has chosen.
func (s *Sample) left(m Method, blockSize int, scales []float32, codes [][]byte) (sum float64) {
	for i, p := range s.pieces {
		blocks := (len(p.x) + blockSize - 1) / blockSize
		if _, plain := m.(Absmax); !plain {
			m.Codes(s.panel(p, blockSize), scales[:blocks], codes[i])
		}
		v := make([]float32, len(p.x))
		kernel.DequantizeF32(s.Type, v, codes[i], scales[:blocks], blockSize)
		sum += kernel.WeightedSquares(p.x, v, s.moments, int(p.first%int64(len(s.moments))))
		scales = scales[blocks:]
	}
	return sum
}
