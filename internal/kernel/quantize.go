package kernel

import "math"

// absmaxGeneric is the specification of Absmax.
func absmaxGeneric(e Elem, absmax []float32, src []byte, blockSize int) {
	size := e.Size()
	n := len(src) / size
	for b := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, n)
		m := maxBits(e, src[lo*size:hi*size])
		if hi-lo < blockSize {
			m = max(m, minScale)
		}
		absmax[b] = math.Float32frombits(m)
	}
}

// codesGeneric is the specification of Codes.
func codesGeneric(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) {
	var buf [piece]float32
	size := e.Size()
	n := len(src) / size
	for b, a := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, n)
		full := hi-lo == blockSize
		for ; lo < hi; lo += piece {
			v := buf[:min(piece, hi-lo)]
			load(e, v, src[lo*size:])
			scale(v, a, full)
			pack(t, codes[lo/2:], v)
		}
	}
}

// quantizeF32Generic is the specification of QuantizeF32.
func quantizeF32Generic(t Type, codes []byte, absmax []float32, src []float32, blockSize int) {
	var buf [piece]float32
	for b := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, len(src))
		full := hi-lo == blockSize
		var m uint32
		for _, x := range src[lo:hi] {
			m = max(m, math.Float32bits(x)&0x7fffffff)
		}
		if !full {
			m = max(m, minScale)
		}
		absmax[b] = math.Float32frombits(m)
		for ; lo < hi; lo += piece {
			v := buf[:min(piece, hi-lo)]
			copy(v, src[lo:])
			scale(v, absmax[b], full)
			pack(t, codes[lo/2:], v)
		}
	}
}

// nearestGeneric is the specification of Nearest.
func nearestGeneric(t Type, codes []byte, values, x, scales []float32) {
	b := &books[t]
	codes, values, scales = codes[:len(x)], values[:len(x)], scales[:len(x)]
	for i, v := range x {
		s := scales[i]
		var inv float32
		if max(s, -s) >= 1e-37 {
			inv = 1 / s
		}
		c := b.search(clampUnit(v * inv))
		codes[i], values[i] = c, b.value[c]*s
	}
}

// scale takes the elements of a block to [-1, 1]: those of a full block by multiplying with the reciprocal of the
// clamped absmax, those of a short one by division.
func scale(v []float32, absmax float32, full bool) {
	if full {
		inv := 1 / math.Float32frombits(max(math.Float32bits(absmax), minScale))
		for i, x := range v {
			v[i] = clampUnit(x * inv)
		}
		return
	}
	for i, x := range v {
		v[i] = clampUnit(x / absmax)
	}
}

// clampUnit clamps to [-1, 1]. Rounding passes 1 by a few units in the last place at most, unless the absmax is not
// that of the block.
func clampUnit(v float32) float32 {
	if v > 1 {
		return 1
	}
	if v < -1 {
		return -1
	}
	return v
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
