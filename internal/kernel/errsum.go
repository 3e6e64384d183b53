package kernel

// Chunk is how many elements one call of ErrorSums, ErrorSumsOf or PairSums is given, except for the rest of a tensor. With a fixed
// size the sums of a tensor do not depend on who computed which part.
const Chunk = 65536

// Sums are sums over the elements of a tensor of the source value x, the decoded value w and the error e = x - w.
// x and w are float32 values, w rounded as Dequantize to float32 rounds it; e and everything below is float64.
type Sums struct {
	N    int64   // elements
	X2   float64 // sum of x squared
	W2   float64 // sum of w squared
	XW   float64 // sum of x times w
	E2   float64 // sum of e squared
	AbsE float64 // sum of |e|
	Max  float64 // largest |e|
}

// Add adds the sums of the chunk that follows. The order of additions is part of the result.
func (s *Sums) Add(o *Sums) {
	s.N += o.N
	s.X2 += o.X2
	s.W2 += o.W2
	s.XW += o.XW
	s.E2 += o.E2
	s.AbsE += o.AbsE
	s.Max = max(s.Max, o.Max)
}

// WeightedSquares is the sum of h*(x-v)^2 in float64, added in order: h is by column, and element 0 is in column col. A nil v is
// zeros.
func WeightedSquares(x, v, h []float32, col int) float64 {
	var s float64
	for i, x := range x {
		e := float64(x)
		if v != nil {
			e -= float64(v[i])
		}
		s += float64(float64(float64(h[col])*e) * e)
		if col++; col == len(h) {
			col = 0
		}
	}
	return s
}

// lanes holds a chunk's running sums, which are the same whatever the width of the registers: elements 2i and 2i+1 of
// the chunk go to lane i%8, in this order. So a lane takes both codes of a byte, and both halves of 32 bits of source.
type lanes struct {
	x2, w2, xw, e2, absE, max [8]float64
}

// fold sums lanes by halves, as vector registers are folded.
func fold(v *[8]float64) float64 {
	return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

func (l *lanes) sum(n int) Sums {
	s := Sums{N: int64(n), X2: fold(&l.x2), W2: fold(&l.w2), XW: fold(&l.xw), E2: fold(&l.e2), AbsE: fold(&l.absE)}
	for _, m := range l.max {
		if m > s.Max {
			s.Max = m
		}
	}
	return s
}

// add adds elements, the first of them in lane 0, and the values they decode to.
func (l *lanes) add(x []float32, codes []byte, w *[16]float64) {
	codes = codes[:len(x)]
	for i, f := range x {
		l.addOne(i/2&7, float64(f), w[codes[i]&15])
	}
}

// pairSumsGeneric is the specification of PairSums.
func pairSumsGeneric(l *lanes, x, v []float32) {
	v = v[:len(x)]
	for i, f := range x {
		l.addOne(i/2&7, float64(f), float64(v[i]))
	}
}

// addOne adds an element to lane j. A product of float32 values is exact in float64, so fusing it with the sum changes
// nothing; the square of e is not.
func (l *lanes) addOne(j int, x, w float64) {
	e := x - w
	a := e
	if a < 0 {
		a = -a
	}
	l.x2[j] += x * x
	l.w2[j] += w * w
	l.xw[j] += x * w
	l.e2[j] += float64(e * e)
	l.absE[j] += a
	if a > l.max[j] {
		l.max[j] = a
	}
}

// Deltas are sums over the elements of a weight w, of what was to be added to it, d, and of the change that came of it, r = v - w.
// d and r are float32 values, each rounded once; everything below is float64 but Max. r is exact wherever a weight changes by less
// than half of itself (Sterbenz).
type Deltas struct {
	W2  float64 // sum of w squared
	D2  float64 // sum of d squared
	DR  float64 // sum of d times r
	E2  float64 // sum of (d - r) squared
	Max float32 // largest |d|
}

// deltaLanes holds a chunk's running sums: element i goes to lane i%8.
type deltaLanes struct {
	sum [4][8]float64 // in the order of Deltas
	max [8]float32
}

func (l *deltaLanes) addTo(s *Deltas) {
	for i, to := range []*float64{&s.W2, &s.D2, &s.DR, &s.E2} {
		*to += fold(&l.sum[i])
	}
	for _, m := range l.max {
		s.Max = max(s.Max, m)
	}
}

// deltaSumsGeneric is the specification of DeltaSums. A NaN is never the largest.
func deltaSumsGeneric(l *deltaLanes, w, d []float32, by float32, v []float32) {
	d, v = d[:len(w)], v[:len(w)]
	for i, base := range w {
		delta, change := float32(by*d[i]), v[i]-base
		j, x, r := i&7, float64(delta), float64(change)
		e := x - r
		l.sum[0][j] += float64(base) * float64(base)
		l.sum[1][j] += x * x
		l.sum[2][j] += x * r
		l.sum[3][j] += float64(e * e)
		if delta < 0 {
			delta = -delta
		}
		if delta > l.max[j] {
			l.max[j] = delta
		}
	}
}

// products returns the 16 values that a block of the given scale decodes to.
func products(t Type, scale float32) (w [16]float64) {
	for c, v := range &books[t].value {
		w[c] = float64(v * scale)
	}
	return w
}

// errorSumsGeneric is the specification of ErrorSums.
func errorSumsGeneric(l *lanes, t Type, e Elem, src []byte, codes []byte, scale []float32, blockSize int) {
	var x [piece]float32
	var c [piece]byte
	size := e.Size()
	n := len(src) / size
	for b, a := range scale {
		w := products(t, a)
		for lo, hi := b*blockSize, min((b+1)*blockSize, n); lo < hi; lo += piece {
			k := min(piece, hi-lo)
			load(e, x[:k], src[lo*size:])
			for i, p := range codes[lo/2 : (lo+k+1)/2] {
				c[2*i%piece], c[(2*i+1)%piece] = p>>4, p&15
			}
			l.add(x[:k], c[:k], &w)
		}
	}
}
