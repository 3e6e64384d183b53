package kernel

import "math"

// quantizeGeneric is the specification of Quantize.
func quantizeGeneric(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) {
	var buf [piece]float32
	size := e.Size()
	n := len(src) / size
	for b := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, n)
		s := newScaler(maxBits(e, src[lo*size:hi*size]), hi-lo == blockSize)
		absmax[b] = s.absmax
		for ; lo < hi; lo += piece {
			v := buf[:min(piece, hi-lo)]
			load(e, v, src[lo*size:])
			s.scale(v)
			pack(t, codes[lo/2:], v)
		}
	}
}

// quantizeF32Generic is the specification of QuantizeF32.
func quantizeF32Generic(t Type, codes []byte, absmax []float32, src []float32, blockSize int) {
	var buf [piece]float32
	for b := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, len(src))
		var m uint32
		for _, x := range src[lo:hi] {
			m = max(m, math.Float32bits(x)&0x7fffffff)
		}
		s := newScaler(m, hi-lo == blockSize)
		absmax[b] = s.absmax
		for ; lo < hi; lo += piece {
			v := buf[:min(piece, hi-lo)]
			copy(v, src[lo:])
			s.scale(v)
			pack(t, codes[lo/2:], v)
		}
	}
}

// scaler takes the elements of one block to [-1, 1].
type scaler struct {
	absmax float32 // as stored
	factor float32
	full   bool
}

// newScaler applies bitsandbytes' two rules. A full block stores its largest magnitude as it is and multiplies by the
// reciprocal of the clamped one; a short block stores the clamped one and divides by it.
func newScaler(magnitude uint32, full bool) scaler {
	a := math.Float32frombits(magnitude)
	clamped := math.Float32frombits(max(magnitude, minScale))
	if full {
		return scaler{absmax: a, factor: 1 / clamped, full: true}
	}
	return scaler{absmax: clamped, factor: clamped}
}

// scale leaves out bitsandbytes' clamp to [-1, 1]: rounding can pass 1 by a few units in the last place, where the code
// is that of 1.
func (s *scaler) scale(v []float32) {
	if s.full {
		for i, x := range v {
			v[i] = x * s.factor
		}
		return
	}
	for i, x := range v {
		v[i] = x / s.factor
	}
}

// pack writes the codes of the scaled values v, the first of each two in the high nibble. The missing nibble of an odd
// count is the code of 0.
func pack(t Type, codes []byte, v []float32) {
	b := &books[t]
	codes = codes[:(len(v)+1)/2]
	for i := 0; i < len(v)/2; i++ {
		codes[i] = b.search(v[2*i])<<4 | b.search(v[2*i+1])
	}
	if len(v)%2 != 0 {
		codes[len(codes)-1] = b.search(v[len(v)-1])<<4 | b.search(0)
	}
}
