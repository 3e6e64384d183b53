package kernel

// EncodeF32 writes the codes with which DequantizeF32 comes nearest to src given these scales, one a block, of either
// sign: of the 16 products table[code]*scale, rounded to float32 as the decoder rounds them, the one that is truly
// nearest. Halfway between two, it is the code that comes first in Order, which is the lower of the two scaled values.
// Under a scale of zero every code decodes to zero; the codes are those of zero, as they are in padding.
//
// The scales and src must be finite. codes must have (len(src)+1)/2 bytes, scales one value a block.
func EncodeF32(t Type, codes []byte, scales []float32, src []float32, blockSize int) {
	for b, s := range scales {
		lo, hi := b*blockSize, min((b+1)*blockSize, len(src))
		books[t].encode(codes[lo/2:(hi+1)/2], s, src[lo:hi])
	}
}

// encode does one block. The middle of two neighbouring products is exact in float64, and so is the comparison.
func (b *book) encode(codes []byte, scale float32, src []float32) {
	zero := b.search(0)
	if scale == 0 {
		for i := range codes {
			codes[i] = zero<<4 | zero
		}
		return
	}
	sign := 1.0 // under a negative scale the products descend, and so would the middles: both sides are negated
	if scale < 0 {
		sign = -1
	}
	var middle [15]float64
	for i := range middle {
		lower, upper := float32(b.value[b.order[i]]*scale), float32(b.value[b.order[i+1]]*scale)
		middle[i] = sign * (float64(lower) + float64(upper)) / 2
	}
	code := func(x float32) uint8 {
		v := sign * float64(x)
		i := 0
		for step := 8; step > 0; step /= 2 {
			if v > middle[i+step-1] {
				i += step
			}
		}
		return b.order[i]
	}
	for i := range codes {
		low := zero
		if 2*i+1 < len(src) {
			low = code(src[2*i+1])
		}
		codes[i] = code(src[2*i])<<4 | low
	}
}
