package kernel

// Quantize quantizes a row of elements block by block, in one pass over each.
//
// The row is all of src; codes has half a byte for every element, rounded up, and absmax one value for every block.
// For a full block, absmax is the largest magnitude a and an element's scaled value is x*(1/max(a, 1e-38)), two
// roundings; for a short last block absmax is max(a, 1e-38) and the scaled value x/absmax. The first of two codes is in
// the high nibble, and the missing nibble of an odd count is the code of 0.
//
// The absmax of a block that holds a NaN or an infinity is itself a NaN or an infinity, and only then; the codes of
// such a block are unspecified.
func Quantize(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) {
	quantizeGeneric(t, e, codes, absmax, src, blockSize)
}

// QuantizeF32 is Quantize of float32 values.
func QuantizeF32(t Type, codes []byte, absmax []float32, src []float32, blockSize int) {
	quantizeF32Generic(t, codes, absmax, src, blockSize)
}

// Dequantize decodes n elements: the code's value times the block's absmax (or decoded scale) in float32, rounded to
// nearest even to e.
func Dequantize(t Type, e Elem, dst []byte, codes []byte, absmax []float32, n int, blockSize int) {
	dequantizeGeneric(t, e, dst, codes, absmax, n, blockSize)
}

// DequantizeF32 decodes len(dst) elements to float32.
func DequantizeF32(t Type, dst []float32, codes []byte, absmax []float32, blockSize int) {
	dequantizeF32Generic(t, dst, codes, absmax, blockSize)
}

// Convert converts n elements of any encoding to a run dtype, rounding to nearest even. A float64 is rounded to float32
// on the way, as torch does. A NaN keeps its sign and the top of its payload and becomes quiet, except in a plain copy
// (de == se) and in widening from bfloat16, which keep every bit.
//
// It returns the index of the first finite element that became infinite, and of the first element that was not finite
// to begin with; -1 where there is none.
func Convert(dst []byte, de Elem, src []byte, se Elem, n int) (overflow, nonFinite int) {
	convertGeneric(dst, de, src, se, n)
	overflow, nonFinite = -1, -1
	for i := range n {
		if finite(de, dst, i) {
			continue
		}
		if !finite(se, src, i) {
			if nonFinite < 0 {
				nonFinite = i
			}
		} else if overflow < 0 {
			overflow = i
		}
	}
	return overflow, nonFinite
}

// Widen converts len(dst) elements of any encoding to float32 values, a float64 by rounding and all others exactly.
func Widen(dst []float32, src []byte, e Elem) { widen(e, dst, src) }

// Narrow rounds the elements of src to a run dtype, to nearest even, as Convert does but without looking for overflow.
func Narrow(dst []byte, e Elem, src []float32) { store(e, dst, src) }

// DynamicQuantize writes the 8-bit codes of scales less offset, and for every 256 of them their largest magnitude m in
// nested. The code is the entry of the dynamic map nearest to (scale - offset)/m, the upper of two only if strictly
// above their float32 midpoint. Where m is 0 the codes are 0 and decode to the offset. Where m is not finite (a scale
// was not) the codes are unspecified.
func DynamicQuantize(codes []byte, nested []float32, scales []float32, offset float32) {
	dynamicQuantizeGeneric(codes, nested, scales, offset)
}

// DynamicDequantize decodes len(codes) scales: the map's entry times the nested constant, rounded, plus the offset,
// rounded again.
func DynamicDequantize(scales []float32, codes []byte, nested []float32, offset float32) {
	dynamicDequantizeGeneric(scales, codes, nested, offset)
}

// ErrorSums adds to s the sums of one chunk of at most Chunk elements: all of src against codes decoded with scale.
func ErrorSums(s *Sums, t Type, e Elem, src []byte, codes []byte, scale []float32, blockSize int) {
	var l lanes
	errorSumsGeneric(&l, t, e, src, codes, scale, blockSize)
	c := l.sum(len(src) / e.Size())
	s.Add(&c)
}

// ErrorSumsOf is ErrorSums for a type whose codes are not stored: they are those that Quantize would give the values q
// (as many as src, in the run dtype; the same bytes where src is in it) with absmax. They are decoded with scale.
func ErrorSumsOf(s *Sums, t Type, qe Elem, q []byte, e Elem, src []byte, absmax, scale []float32, blockSize int) {
	var l lanes
	errorSumsOfGeneric(&l, t, qe, q, e, src, absmax, scale, blockSize)
	c := l.sum(len(src) / e.Size())
	s.Add(&c)
}
