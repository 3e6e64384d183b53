package measure

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
)

// scratch is the memory of one worker.
type scratch struct {
	src, run []byte
	x, q     []float32
	v        []float32 // decoded
	scale    []float32
	codes    [piece]byte
	packed   [kernel.Chunk / 2]byte
	nested   [piece / kernel.DynamicBlock]float32
	counts   []counts
	errors   []errorCounts
	zeros    []int64
	lean     []leanScales // by block size
}

// leanScales are those of one chunk, where they are not kept.
type leanScales struct {
	absmax, scale []float32
	outliers      int64
}

func newScratch(set *formatSet) *scratch {
	s := &scratch{src: make([]byte, kernel.Chunk*8), run: make([]byte, kernel.Chunk*4), x: make([]float32, kernel.Chunk), q: make([]float32, kernel.Chunk),
		v: make([]float32, kernel.Chunk), scale: make([]float32, kernel.Chunk/traits[NVFP4].fixed),
		counts: make([]counts, len(set.formats)), zeros: make([]int64, len(set.formats)), errors: make([]errorCounts, len(set.formats))}
	for _, size := range set.blocks {
		s.lean = append(s.lean, leanScales{absmax: make([]float32, kernel.Chunk/size), scale: make([]float32, kernel.Chunk/size)})
	}
	return s
}
