package kernel

// Absmax writes the largest magnitude of every block of src, clamped to at least 1e-38 for a short last block. It is a
// NaN or an infinity if and only if the block holds one.
func Absmax(e Elem, absmax []float32, src []byte, blockSize int) {
	done := absmaxBlocks(e, absmax, src, blockSize)
	if done == len(absmax) {
		return
	}
	absmaxGeneric(e, absmax[done:], src[done*blockSize*e.Size():], blockSize)
}

// Codes writes the codes of src for given scales, half a byte for every element, rounded up. The scaled value of an
// element is x*(1/max(a, 1e-38)) in a full block, two roundings, and x/a in a short last one; it is clamped to [-1, 1].
// The first of two codes is in the high nibble, and the missing nibble of an odd count is the code of 0.
//
// absmax may hold any scales instead, as decoded from 8-bit codes or found by a search. A negative one, which turns the
// table around, is taken as it is. Where a scale is a NaN, -0 or between -1e-37 and 0, or an element is not finite, the codes
// of that block are unspecified.
func Codes(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) {
	done := codesBlocks(t, e, codes, absmax, src, blockSize)
	if done == len(absmax) {
		return
	}
	codesGeneric(t, e, codes[done*blockSize/2:], absmax[done:], src[done*blockSize*e.Size():], blockSize)
}

// Nearest finds the codes of elements that each have a scale of their own, of either sign, and the values they decode to:
// the code for x*(1/scale), two roundings, and its value times the scale. A scale below 1e-37 is taken as 0, and the code is
// that of 0.
func Nearest(t Type, codes []byte, values, x, scales []float32) {
	done := nearestSteps(t, codes, values, x, scales)
	nearestGeneric(t, codes[done:], values[done:], x[done:], scales[done:])
}

// stretch is how many elements go through Absmax and then Codes at a time: few enough for the second to find them in the
// first-level cache, so that memory is read once.
const stretch = 4096

// Quantize is Absmax and Codes in one pass over src.
func Quantize(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) {
	size := e.Size()
	blocks := max(1, stretch/blockSize)
	for len(absmax) > blocks {
		n := blocks * blockSize
		Absmax(e, absmax[:blocks], src[:n*size], blockSize)
		Codes(t, e, codes[:n/2], absmax[:blocks], src[:n*size], blockSize)
		absmax, src, codes = absmax[blocks:], src[n*size:], codes[n/2:]
	}
	Absmax(e, absmax, src, blockSize)
	Codes(t, e, codes, absmax, src, blockSize)
}

// QuantizeF32 is Quantize of float32 values.
func QuantizeF32(t Type, codes []byte, absmax []float32, src []float32, blockSize int) {
	if b := asBytes(src); b != nil {
		Quantize(t, F32, codes, absmax, b, blockSize)
		return
	}
	quantizeF32Generic(t, codes, absmax, src, blockSize)
}

// Dequantize decodes n elements: the code's value times the block's absmax (or decoded scale) in float32, rounded to
// nearest even to e.
func Dequantize(t Type, e Elem, dst []byte, codes []byte, absmax []float32, n int, blockSize int) {
	dst = dst[:n*e.Size()]
	done := dequantizeBlocks(t, e, dst, codes, absmax, blockSize)
	at := done * blockSize
	dequantizeGeneric(t, e, dst[at*e.Size():], codes[at/2:], absmax[done:], n-at, blockSize)
}

// DequantizeF32 decodes len(dst) elements to float32.
func DequantizeF32(t Type, dst []float32, codes []byte, absmax []float32, blockSize int) {
	if b := asBytes(dst); b != nil {
		Dequantize(t, F32, b, codes, absmax, len(dst), blockSize)
		return
	}
	dequantizeF32Generic(t, dst, codes, absmax, blockSize)
}

// Convert converts n elements of any encoding to a run dtype, rounding to nearest even. A float64 is rounded to float32
// on the way, as torch does. A NaN keeps its sign and the top of its payload and becomes quiet, except in a plain copy
// (de == se) and in widening from bfloat16, which keep every bit.
//
// It returns the index of the first finite element that became infinite, and of the first element that was not finite
// to begin with; -1 where there is none.
func Convert(dst []byte, de Elem, src []byte, se Elem, n int) (overflow, nonFinite int) {
	ds, ss := de.Size(), se.Size()
	dst, src = dst[:n*ds], src[:n*ss]
	overflow, nonFinite = -1, -1
	for at := 0; at < n; at += stretch {
		k := min(stretch, n-at)
		d, s := dst[at*ds:][:k*ds], src[at*ss:][:k*ss]
		if done := convertVector(d, de, s, se); done < k {
			convertGeneric(d[done*ds:], de, s[done*ss:], se, k-done)
		}
		// A value that is not finite in src is not finite in dst either, which is at hand in the first-level cache.
		for i := FirstNonFinite(de, d, k); i >= 0 && i < k; {
			if finite(se, s, i) {
				if overflow < 0 {
					overflow = at + i
				}
			} else if nonFinite < 0 {
				nonFinite = at + i
			}
			if overflow >= 0 && nonFinite >= 0 {
				break
			}
			i++
			next := FirstNonFinite(de, d[i*ds:], k-i)
			if next < 0 {
				break
			}
			i += next
		}
	}
	return overflow, nonFinite
}

// FirstNonFinite returns the index of the first NaN or infinity among the first n elements of src, or -1.
func FirstNonFinite(e Elem, src []byte, n int) int {
	src = src[:n*e.Size()]
	done := finiteSteps(e, src)
	done += finitePrefix(e, src[done*e.Size():])
	for i := done; i < n; i++ {
		if !finite(e, src, i) {
			return i
		}
	}
	return -1
}

// Widen converts len(dst) elements of any encoding to float32 values, a float64 by rounding and all others exactly.
func Widen(dst []float32, src []byte, e Elem) {
	src = src[:len(dst)*e.Size()]
	done := 0
	if b := asBytes(dst); b != nil {
		if e == F32 {
			copy(b, src)
			return
		}
		done = convertVector(b, F32, src, e)
	}
	widen(e, dst[done:], src[done*e.Size():])
}

// Narrow rounds the elements of src to a run dtype, to nearest even, as Convert does but without looking for overflow.
func Narrow(dst []byte, e Elem, src []float32) {
	size := e.Size()
	dst = dst[:len(src)*size]
	done := 0
	if b := asBytes(src); b != nil {
		if e == F32 {
			copy(dst, b)
			return
		}
		done = convertVector(dst, e, b, F32)
	}
	store(e, dst[done*size:], src[done:])
}

// DynamicQuantize writes the 8-bit codes of scales less offset, and for every 256 of them their largest magnitude m in
// nested. The code is the entry of the dynamic map nearest to (scale - offset)/m, the upper of two only if strictly
// above their float32 midpoint. Where m is 0 the codes are 0 and decode to the offset. Where m is not finite (a scale
// was not) the codes are unspecified.
func DynamicQuantize(codes []byte, nested []float32, scales []float32, offset float32) {
	if n := len(scales); n > 0 {
		_ = codes[n-1]
	}
	done := dynamicQuantizeBlocks(codes, nested, scales, offset)
	at := done * DynamicBlock
	dynamicQuantizeGeneric(codes[at:], nested[done:], scales[at:], offset)
}

// DynamicDequantize decodes len(codes) scales: the map's entry times the nested constant, rounded, plus the offset,
// rounded again.
func DynamicDequantize(scales []float32, codes []byte, nested []float32, offset float32) {
	if n := len(codes); n > 0 {
		_ = scales[n-1]
	}
	done := dynamicDequantizeBlocks(scales, codes, nested, offset)
	at := done * DynamicBlock
	dynamicDequantizeGeneric(scales[at:], codes[at:], nested[done:], offset)
}

// ErrorSums adds to s the sums of one chunk: all of src against codes decoded with scale.
func ErrorSums(s *Sums, t Type, e Elem, src []byte, codes []byte, scale []float32, blockSize int) {
	var l lanes
	errorSums(&l, t, e, src, codes, scale, blockSize)
	c := l.sum(len(src) / e.Size())
	s.Add(&c)
}

func errorSums(l *lanes, t Type, e Elem, src []byte, codes []byte, scale []float32, blockSize int) {
	done := errorSumsBlocks(l, t, e, src, codes, scale, blockSize)
	if done == len(scale) {
		return
	}
	at := done * blockSize
	errorSumsGeneric(l, t, e, src[at*e.Size():], codes[at/2:], scale[done:], blockSize)
}

// ErrorSumsOf is ErrorSums for a type whose codes are not stored: they are those that Codes gives the values q (as many
// as src, in the run dtype; the same bytes where src is in it) with absmax. They are decoded with scale.
func ErrorSumsOf(s *Sums, t Type, qe Elem, q []byte, e Elem, src []byte, absmax, scale []float32, blockSize int) {
	var l lanes
	var codes [stretch / 2]byte
	size, qsize := e.Size(), qe.Size()
	n := len(src) / size
	blocks := stretch / blockSize
	for b := 0; b < len(scale); b += blocks {
		lo, hi := b*blockSize, min((b+blocks)*blockSize, n)
		c, end := codes[:(hi-lo+1)/2], min(b+blocks, len(scale))
		Codes(t, qe, c, absmax[b:end], q[lo*qsize:hi*qsize], blockSize)
		errorSums(&l, t, e, src[lo*size:hi*size], c, scale[b:end], blockSize)
	}
	c := l.sum(n)
	s.Add(&c)
}

// PairSums is ErrorSums of elements x that decode to v, as many.
func PairSums(s *Sums, x, v []float32) {
	var l lanes
	if n := len(x); n > 0 {
		_ = v[n-1]
	}
	done := pairSumsSteps(&l, x, v)
	pairSumsGeneric(&l, x[done:], v[done:])
	c := l.sum(len(x))
	s.Add(&c)
}

// DeltaSums adds to s the sums of one chunk of a weight w, of which by*d was to make v. All are as long.
func DeltaSums(s *Deltas, w, d []float32, by float32, v []float32) {
	if n := len(w); n > 0 {
		_, _ = d[n-1], v[n-1]
	}
	var l deltaLanes
	done := deltaSumsSteps(&l, w, d, by, v)
	deltaSumsGeneric(&l, w[done:], d[done:], by, v[done:])
	l.addTo(s)
}

// E2M1 writes the codes of x in units of a scale for every block, half a byte for every element, rounded up, and in v
// the values they decode to. The code is the E2M1 value nearest to x/scale, of two equally near the one with an even
// mantissa, saturated at 6, with the sign of x in bit 3 (OCP Microscaling Formats MX v1.0, section 5.3.3). A block with
// the scale 0 has the code and the value 0 throughout; a scale is not negative. The first of two codes is in the high
// nibble, and the missing nibble of an odd count is 0.
func E2M1(codes []byte, v, x, scale []float32, blockSize int) {
	if n := len(x); n > 0 {
		_, _ = v[n-1], codes[(n-1)/2]
	}
	done := e2m1Blocks(codes, v, x, scale, blockSize)
	at := done * blockSize
	e2m1Generic(codes[at/2:], v[at:], x[at:], scale[done:], blockSize)
}

// GridFit tries scales on a block x: for each of inv, the reciprocal of one, it finds the codes of x (those whose values
// are nearest to x*inv; inv may be negative) and gives what the best scale for those codes follows from: in wq the sum of
// hx*q and in qq the sum of h*q*q over the values q of the codes. With weights h and hx = h*x the weighted squared error of
// the codes with scale s is sum(h*x*x) - 2*s*wq + s*s*qq, least at s = wq/qq.
//
// hx and h are as long as x, wq and qq as inv. x*inv must not be a NaN. Sums are float32, element i in lane i%16, each
// product rounded, lanes folded by halves.
func GridFit(t Type, wq, qq []float32, x, hx, h []float32, inv []float32) {
	if !gridFitSteps(t, wq, qq, x, hx, h, inv) {
		gridFitGeneric(t, wq, qq, x, hx, h, inv)
	}
}

// MulTile adds to a tile of c, whose TileRows rows of TileCols elements are stride apart, the product of a and b: a holds
// k columns of TileRows elements, b holds k rows of TileCols. Each sum is a chain of k fused multiply-adds from 0, in
// order, and is then added to c.
func MulTile(c []float32, stride int, a, b []float32) {
	if !mulTile(c, stride, a, b) {
		mulTileGeneric(c, stride, a, b)
	}
}

// MulRow is MulTile of one row: the TileCols elements of c, k elements in a.
func MulRow(c, a, b []float32) {
	if !mulRow(c, a, b) {
		mulRowGeneric(c, a, b)
	}
}

// AddScaled adds by times x to c, element by element; both products and sums are rounded. x is as long as c or longer.
func AddScaled(c []float32, by float32, x []float32) { AddScaledTo(c, c, by, x) }

// AddScaledTo is AddScaled that leaves its sums in dst, which may be c or x but overlap neither otherwise. c and x are as long as
// dst or longer.
func AddScaledTo(dst, c []float32, by float32, x []float32) {
	done := addScaledSteps(dst, c, by, x)
	addScaledGeneric(dst[done:], c[done:], by, x[done:])
}
