package measure

import (
	"encoding/binary"
	"math"
)

// errorBins is how many bins errors are counted in: 16 an octave over all of float32.
const errorBins = 1 << 12

const errorShift = 19

// binOf is the bin of an error, whatever its sign.
func binOf(e float32) uint32 { return math.Float32bits(e) << 1 >> 1 >> errorShift & (errorBins - 1) }

// errorCounts are the bins of one chunk.
type errorCounts [errorBins]int32

func (c *errorCounts) add(x, v []float32) {
	v = v[:len(x)]
	for i, x := range x {
		c[binOf(x-v[i])]++
	}
}

// An ErrorHistogram counts |e| by the upper bits of its float32. The zero value has counted nothing.
//
// Errors lie in some hundred of the bins, and a model has many thousand histograms, one of each tensor in each format. So they are
// held as varints: for every bin that is not empty how far it is from the one before, and its count. These are some 600 bytes.
type ErrorHistogram []byte

// histogram is what was counted.
func (c *errorCounts) histogram() ErrorHistogram {
	var p packing
	for i, n := range c {
		p.put(i, int64(n))
	}
	return ErrorHistogram(p.bins)
}

// ErrorsOf is the histogram of counts of errors of the given magnitudes.
func ErrorsOf(counts map[float32]int32) ErrorHistogram {
	c := new(errorCounts)
	for e, n := range counts {
		c[binOf(e)] += n
	}
	return c.histogram()
}

// packing appends bins in their order.
type packing struct {
	bins []byte
	last int
}

func (p *packing) put(bin int, n int64) {
	if n > 0 {
		p.bins = binary.AppendUvarint(binary.AppendUvarint(p.bins, uint64(bin-p.last)), uint64(n))
		p.last = bin
	}
}

// unpacking goes over the bins that are not empty: bin is errorBins behind the last.
type unpacking struct {
	rest []byte
	bin  int
	n    int64
}

func (h ErrorHistogram) unpack() *unpacking {
	u := &unpacking{rest: h}
	u.next()
	return u
}

func (u *unpacking) next() {
	if len(u.rest) == 0 {
		u.bin, u.n = errorBins, 0
		return
	}
	step, k := binary.Uvarint(u.rest)
	n, l := binary.Uvarint(u.rest[k:])
	u.rest, u.bin, u.n = u.rest[k+l:], u.bin+int(step), int64(n)
}

// Merged is the histogram of all that was counted in any of them.
func Merged(of ...ErrorHistogram) ErrorHistogram {
	if len(of) == 1 {
		return of[0]
	}
	var sum [errorBins]int64
	for _, h := range of {
		for u := h.unpack(); u.bin < errorBins; u.next() {
			sum[u.bin] += u.n
		}
	}
	var p packing
	for i, n := range sum {
		p.put(i, n)
	}
	return ErrorHistogram(p.bins)
}

// errorParts are the histograms of the chunks of a tensor, merged when they become many.
type errorParts []ErrorHistogram

func (l *errorParts) add(h ErrorHistogram) {
	if *l = append(*l, h); len(*l) == 64 {
		*l = append((*l)[:0], Merged(*l...))
	}
}

// Quantiles are the |e| below which shares of the counted errors lie, to within a bin (4.5 %); NaN without any. The shares ascend.
func (h ErrorHistogram) Quantiles(shares ...float64) []float64 {
	var total, below int64
	for u := h.unpack(); u.bin < errorBins; u.next() {
		total += u.n
	}
	out := make([]float64, 0, len(shares))
	for u := h.unpack(); u.bin < errorBins; u.next() {
		lo := float64(math.Float32frombits(uint32(u.bin) << errorShift))
		hi := float64(math.Float32frombits(uint32(u.bin+1) << errorShift))
		for len(out) < len(shares) {
			rank := shares[len(out)] * float64(total)
			if float64(below)+float64(u.n) < rank {
				break
			}
			out = append(out, lo+(hi-lo)*max(rank-float64(below), 0)/float64(u.n))
		}
		below += u.n
	}
	for len(out) < len(shares) {
		out = append(out, math.NaN())
	}
	return out
}
