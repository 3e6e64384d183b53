//go:build !purego && (amd64 || arm64)

package kernel

import (
	"math"
	"unsafe"
)

// This file is what the architectures with assembly share.

// asBytes returns the memory of v where float32 values lie there in little-endian order, or nil.
func asBytes(v []float32) []byte {
	if current == generic {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

// fullBlocks returns how many full blocks of src the assembly can take, having checked that the slices hold as many.
func fullBlocks(e Elem, src []byte, scales []float32, blockSize int) int {
	if current == generic || blockSize%32 != 0 {
		return 0
	}
	n := len(src) / e.Size() / blockSize
	if n > 0 {
		_ = scales[n-1]
	}
	return n
}

// wideCells cuts [-1, 1] into 32 cells with at most one threshold in each, for a search of the kind that book.search does
// but with tables small enough for registers. threshold is the one in the cell or +Inf, rank the number of those in lower
// cells. FP4 has three thresholds near 0; the outer two are left out of the cells and returned as below and above.
func wideCells(b *book) (threshold [32]float32, rank [32]uint8, below, above float32) {
	for i := range threshold {
		threshold[i] = float32(math.Inf(1))
	}
	for i, t := range b.threshold[:15] {
		if b == &books[FP4] && (i == 6 || i == 8) {
			continue
		}
		// As the assembly computes it, but for its rounding, which matters nowhere near a threshold.
		cell := int(math.RoundToEven(float64(t)*cellScale + 16))
		threshold[cell] = t
		for i := cell + 1; i < 32; i++ {
			rank[i]++
		}
	}
	return threshold, rank, b.threshold[6], b.threshold[8]
}

// cellScale is the float32 15.4: it takes [-1, 1] to cells 1 to 31.
const cellScale = float64(float32(15.4))
