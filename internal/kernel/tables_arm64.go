//go:build !purego

package kernel

import (
	"math"
	"math/bits"
)

// byteTable is what the NEON code search looks up, see _asm/neon: for each of 32 cells the rank below it and the four
// bytes of the threshold in it, then the codes by rank, and the two thresholds of FP4 that the cells leave out.
type byteTable struct {
	rank         [32]uint8
	threshold    [4][32]uint8
	code         [16]uint8
	below, above [4]float32
}

var byteTables = [2]byteTable{NF4: newByteTable(&books[NF4]), FP4: newByteTable(&books[FP4])}

func newByteTable(b *book) byteTable {
	threshold, rank, below, above := wideCells(b)
	s := byteTable{rank: rank, code: b.order}
	for cell, t := range threshold {
		u := math.Float32bits(t)
		for i := range s.threshold {
			s.threshold[i][cell] = uint8(u >> (8 * i))
		}
	}
	for i := range s.below {
		s.below[i], s.above[i] = below, above
	}
	return s
}

// fitTable is what the NEON kernels of the scale search look up, see _asm/neon/search.go: the thresholds as a tree, of which the
// first is not used, and the values and codes by rank.
type fitTable struct {
	tree, value [16]float32
	code        [16]uint8
}

var fitTables = newFitTables()

func newFitTables() (s [numTypes]fitTable) {
	for t := range s {
		b := &books[t]
		for n := 1; n < 16; n++ {
			// Node n is one of width nodes of its level, between which lie the ranks that deeper ones tell apart.
			width := 1 << (bits.Len(uint(n)) - 1)
			step := 16 / width
			s[t].tree[n] = b.threshold[(n-width)*step+step/2-1]
		}
		for rank, code := range b.order {
			s[t].value[rank] = b.value[code]
		}
		s[t].code = b.order
	}
	return s
}
