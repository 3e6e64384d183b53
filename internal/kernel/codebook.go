package kernel

import "math"

// The values of the codes 0 to 15, as bitsandbytes stores them in quant_map (functional.py, get_4bit_type).
//
// NF4 is the table of QLoRA (arXiv 2305.14314, appendix E). FP4 is (0, 0.0625, 8, 12, 4, 6, 2, 3)/12 by the three low
// bits with the sign in bit 3; its code 8 is +0 as code 0 is.
//
// AF4 is the table of arXiv 2306.06965 for blocks of 64, as bitsandbytes has it (get_4bit_type("af4")). Int4 is the 15
// levels k/7; its code 15 lies beyond every scaled value.
var (
	nf4Values = [16]float32{
		-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
		-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
		0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
		0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
	}
	fp4Values = [16]float32{
		0, 0.0625 / 12., 8. / 12, 1, 4. / 12, 6. / 12, 2. / 12, 3. / 12,
		0, -0.0625 / 12., -8. / 12, -1, -4. / 12, -6. / 12, -2. / 12, -3. / 12,
	}
	af4Values = [16]float32{
		-1, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0,
		0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1,
	}
	int4Values = [16]float32{
		-1, -6. / 7, -5. / 7, -4. / 7, -3. / 7, -2. / 7, -1. / 7, 0,
		1. / 7, 2. / 7, 3. / 7, 4. / 7, 5. / 7, 6. / 7, 1, float32(math.Inf(1)),
	}
)

// The codes in ascending order of value. FP4's two zeros are two steps: -0.0026 < v <= 0 is code 0 and 0 < v <= 0.0026
// is code 8.
var (
	ascending = [16]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	fp4Order  = [16]uint8{11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}
)

// book is one 4-bit type, with what its code search needs. The rank of a scaled value v is the number of thresholds
// strictly below v; the code is order[rank].
type book struct {
	value     [16]float32      // by code
	order     [16]uint8        // rank to code
	threshold [16]float32      // between rank and rank+1; the last is +Inf
	cell      [4 * cells]uint8 // thresholds whose cell lies below this one
}

// cells is how many cells the search cuts one unit into. It is a power of two, so that v*cells is exact and the cell of
// v is the same whether or not the compiler fuses the addition.
const cells = 512

var books = [numTypes]book{NF4: newBook(nf4Values, ascending), FP4: newBook(fp4Values, fp4Order),
	AF4: newBook(af4Values, ascending), Int4: newBook(int4Values, ascending)}

func newBook(value [16]float32, order [16]uint8) book {
	b := book{value: value, order: order}
	for i := range 15 {
		b.threshold[i] = (value[order[i]] + value[order[i+1]]) / 2
	}
	b.threshold[15] = float32(math.Inf(1))
	for c := range b.cell {
		for b.threshold[b.cell[c]] <= 1 && cellOf(b.threshold[b.cell[c]]) < uint32(c) {
			b.cell[c]++
		}
	}
	return b
}

// cellOf is monotonic in v over [-1, 1]; 1 is in cell 2*cells.
func cellOf(v float32) uint32 { return uint32(int32(v*cells+cells)) % (4 * cells) }

// search returns the code of the scaled value v. cell[c] counts the thresholds whose own cell lies below c. As cellOf is
// monotonic, v exceeds all of those and none of those in a higher cell, and no cell holds two thresholds; so one
// comparison remains.
func (b *book) search(v float32) uint8 {
	r := b.cell[cellOf(v)]
	if v > b.threshold[r&15] {
		r++
	}
	return b.order[r&15]
}

// Values returns the value of every code, the quant_map of a checkpoint.
func Values(t Type) [16]float32 { return books[t].value }

// Order returns the codes in ascending order of their values.
func Order(t Type) [16]uint8 { return books[t].order }

// Thresholds returns the 15 decision thresholds in ascending order: a scaled value takes the upper of two neighbouring
// codes only if it is strictly greater.
func Thresholds(t Type) [15]float32 { return [15]float32(books[t].threshold[:15]) }

// ZeroCode is the code of 0, which also stands at the place of the missing nibble of an odd count.
func ZeroCode(t Type) uint8 { return books[t].search(0) }
