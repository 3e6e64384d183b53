//go:build !purego

package kernel

import "math"

// bisection is what the AVX2 code search looks up, see _asm/codes.go. The outcomes of the levels so far, as a number p,
// index a level negated: the threshold for p is at place -p modulo the level's size.
type bisection struct {
	level [4][8]float32
	high  [16]uint8 // codes by rank, in the high nibble
	low   [16]uint8
}

// cellTable is what the AVX-512 code search looks up, see _asm/codes.go. There are 32 cells; threshold is the one in the
// cell or +Inf, and even and odd hold the rank below it, for the high and the low nibble. The last four are for FP4,
// whose ranks go through code, and which has two more thresholds beside the one at 0, which the cells leave out.
type cellTable struct {
	threshold         [32]float32
	even, odd         [32]uint32
	codeEven, codeOdd [16]uint32
	below, above      [16]float32
}

// dynamicBisection is what the search for 8-bit codes looks up, see _asm/dynamic.go. From the fifth level on there is a
// threshold for every p, in descending order of p.
type dynamicBisection struct {
	level [4][8]float32
	deep  [16 + 32 + 64 + 128]float32
}

var (
	bisections      = newBisections()
	fitTables       = newFitTables()
	e2m1Searcher    = newE2M1Search()
	cellTables      = [2]cellTable{NF4: newCellTable(&books[NF4]), FP4: newCellTable(&books[FP4])}
	dynamicSearcher = newDynamicBisection()
)

// e2m1Search is what E2M1's code search looks up, see _asm/e2m1.go: a bisection of three levels, and the value of rank r
// at place -r modulo 8.
type e2m1Search struct {
	level [4][8]float32
	value [8]float32
}

// e2m1Thresholds lie between the values of E2M1: a magnitude takes the upper of two codes if it is strictly greater. A tie goes to the
// code with an even mantissa, so where that is the upper one the threshold is the number below the midpoint.
var e2m1Thresholds = [7]float32{0.25, math.Nextafter32(0.75, 0), 1.25, math.Nextafter32(1.75, 0), 2.5, math.Nextafter32(3.5, 0), 5}

func newE2M1Search() (s e2m1Search) {
	s.level = levels(e2m1Thresholds[:])
	for r, v := range e2m1Values {
		s.value[-r&7] = v
	}
	return s
}

// levels lays out the first four levels of a search among the thresholds t, or as many as there are.
func levels(t []float32) (level [4][8]float32) {
	for l := range level {
		size := 1 << l
		span := (len(t) + 1) / size
		if span < 2 {
			break
		}
		for i := range level[l] {
			p := -i & (size - 1)
			level[l][i] = t[p*span+span/2-1]
		}
	}
	return level
}

// fitTable is what gridFitAVX2 and nearestAVX2 look up, see _asm/search.go: three levels and the fourth threshold as in
// bisection, and at the place of that the values and the codes below and above it.
type fitTable struct {
	level                [4][8]float32
	lower, upper         [8]float32
	lowerCode, upperCode [8]uint32
}

func newFitTables() (s [numTypes]fitTable) {
	for t := range s {
		b := &books[t]
		s[t].level = levels(b.threshold[:15])
		for i := range 8 {
			p := -i & 7
			lower, upper := b.order[2*p], b.order[2*p+1]
			s[t].lower[i], s[t].upper[i] = b.value[lower], b.value[upper]
			s[t].lowerCode[i], s[t].upperCode[i] = uint32(lower), uint32(upper)
		}
	}
	return s
}

func newBisections() (s [numTypes]bisection) {
	for t := range s {
		s[t] = newBisection(&books[t])
	}
	return s
}

func newBisection(b *book) bisection {
	s := bisection{level: levels(b.threshold[:15])}
	for rank, code := range b.order {
		s.high[rank], s.low[rank] = code<<4, code
	}
	return s
}

func newCellTable(b *book) cellTable {
	var c cellTable
	for rank, code := range b.order {
		c.codeEven[rank], c.codeOdd[rank] = uint32(code)<<4, uint32(code)
	}
	threshold, rank, below, above := wideCells(b)
	c.threshold = threshold
	for i, r := range rank {
		c.even[i], c.odd[i] = uint32(r)<<4, uint32(r)
	}
	for i := range c.below {
		c.below[i], c.above[i] = below, above
	}
	return c
}

func newDynamicBisection() dynamicBisection {
	s := dynamicBisection{level: levels(dynamicThreshold[:255])}
	at := 0
	for size := 16; size <= 128; size *= 2 {
		span := 256 / size
		for p := range size {
			s.deep[at+size-1-p] = dynamicThreshold[p*span+span/2-1]
		}
		at += size
	}
	return s
}
