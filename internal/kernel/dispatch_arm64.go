//go:build !purego

package kernel

import "math"

// detect knows that every arm64 processor has NEON.
func detect() []implementation { return []implementation{neon} }

func absmaxBlocks(e Elem, absmax []float32, src []byte, blockSize int) int {
	n := fullBlocks(e, src, absmax, blockSize)
	if n == 0 {
		return 0
	}
	switch e {
	case F32:
		absmaxF32NEON(&absmax[0], &src[0], n, blockSize)
	case BF16:
		absmaxBF16NEON(&absmax[0], &src[0], n, blockSize)
	case F16:
		absmaxF16NEON(&absmax[0], &src[0], n, blockSize)
	default:
		return 0
	}
	return n
}

func codesBlocks(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) int {
	n := fullBlocks(e, src, absmax, blockSize)
	if n == 0 || int(t) >= len(byteTables) {
		return 0
	}
	_ = codes[n*blockSize/2-1]
	c, a, s, table := &codes[0], &absmax[0], &src[0], &byteTables[t].rank[0]
	switch {
	case t == NF4 && e == F32:
		codesNF4F32NEON(c, a, s, n, blockSize, table)
	case t == NF4 && e == BF16:
		codesNF4BF16NEON(c, a, s, n, blockSize, table)
	case t == NF4 && e == F16:
		codesNF4F16NEON(c, a, s, n, blockSize, table)
	case t == FP4 && e == F32:
		codesFP4F32NEON(c, a, s, n, blockSize, table)
	case t == FP4 && e == BF16:
		codesFP4BF16NEON(c, a, s, n, blockSize, table)
	case t == FP4 && e == F16:
		codesFP4F16NEON(c, a, s, n, blockSize, table)
	default:
		return 0
	}
	return n
}

func dequantizeBlocks(t Type, e Elem, dst, codes []byte, absmax []float32, blockSize int) int {
	n := fullBlocks(e, dst, absmax, blockSize)
	if n == 0 {
		return 0
	}
	_ = codes[n*blockSize/2-1]
	d, c, a, v := &dst[0], &codes[0], &absmax[0], &books[t].value[0]
	switch e {
	case F32:
		dequantizeF32NEON(d, c, a, n, blockSize, v)
	case BF16:
		dequantizeBF16NEON(d, c, a, n, blockSize, v)
	case F16:
		dequantizeF16NEON(d, c, a, n, blockSize, v)
	default:
		return 0
	}
	return n
}

func errorSumsBlocks(l *lanes, t Type, e Elem, src, codes []byte, scale []float32, blockSize int) int {
	n := fullBlocks(e, src, scale, blockSize)
	if n == 0 {
		return 0
	}
	_ = codes[n*blockSize/2-1]
	sums, s, c, a, v := &l.x2[0], &src[0], &codes[0], &scale[0], &books[t].value[0]
	switch e {
	case F32:
		errorSumsF32NEON(sums, s, c, a, n, blockSize, v)
	case BF16:
		errorSumsBF16NEON(sums, s, c, a, n, blockSize, v)
	case F16:
		errorSumsF16NEON(sums, s, c, a, n, blockSize, v)
	default:
		return 0
	}
	return n
}

// What only measuring needs has no NEON kernels.

func pairSumsSteps(l *lanes, x, v []float32) int { return 0 }

func deltaSumsSteps(l *deltaLanes, w, d []float32, by float32, v []float32) int { return 0 }

func e2m1Blocks(codes []byte, v, x, scale []float32, blockSize int) int { return 0 }

// gridFitSteps is GridFit where the assembly can do all of it, and says whether it did.
func gridFitSteps(t Type, wq, qq, x, hx, h, inv []float32) bool {
	n := len(x)
	if current == generic || n == 0 || n%16 != 0 || len(inv) == 0 {
		return false
	}
	_, _, _, _ = hx[n-1], h[n-1], wq[len(inv)-1], qq[len(inv)-1]
	gridFitNEON(&wq[0], &qq[0], &x[0], &hx[0], &h[0], n/16, &inv[0], len(inv), &fitTables[t].tree[0])
	return true
}

// nearestSteps does as many leading elements as the assembly can and returns how many.
func nearestSteps(t Type, codes []byte, values, x, scales []float32) int {
	n := len(x) / 16 * 16
	if current == generic || n == 0 {
		return 0
	}
	_, _, _ = codes[n-1], values[n-1], scales[n-1]
	nearestNEON(&codes[0], &values[0], &x[0], &scales[0], n/16, &fitTables[t].tree[0])
	return n
}

func mulTile(c []float32, stride int, a, b []float32) bool {
	if current == generic || len(a) == 0 {
		return false
	}
	k := len(a) / TileRows
	_, _ = c[(TileRows-1)*stride+TileCols-1], b[k*TileCols-1]
	mulTileNEON(&c[0], stride, &a[0], &b[0], k)
	return true
}

func mulRow(c, a, b []float32) bool {
	if current == generic || len(a) == 0 {
		return false
	}
	_, _ = c[TileCols-1], b[len(a)*TileCols-1]
	mulRowNEON(&c[0], &a[0], &b[0], len(a))
	return true
}

// addScaledSteps does as many leading elements as the assembly can and returns how many.
func addScaledSteps(dst, c []float32, by float32, x []float32) int {
	n := len(dst) / 16 * 16
	if current == generic || n == 0 {
		return 0
	}
	_, _ = c[n-1], x[n-1]
	addScaledNEON(&dst[0], &c[0], uint64(math.Float32bits(by)), &x[0], n/16)
	return n
}

// NEON has no gather, and 8-bit codes are needed for one value in a block only.

func dynamicQuantizeBlocks(codes []byte, nested, scales []float32, offset float32) int { return 0 }

func dynamicDequantizeBlocks(scales []float32, codes []byte, nested []float32, offset float32) int {
	return 0
}

// The plain Go looks at eight bytes at a time.

func finiteSteps(e Elem, src []byte) int { return 0 }

// convertVector converts as many elements as the assembly can and returns how many. dst and src hold equally many.
func convertVector(dst []byte, de Elem, src []byte, se Elem) int {
	steps := len(dst) / de.Size() / 32
	if current == generic || steps == 0 {
		return 0
	}
	d, s := &dst[0], &src[0]
	switch [2]Elem{se, de} {
	case [2]Elem{F32, BF16}:
		convertF32ToBF16NEON(d, s, steps)
	case [2]Elem{F32, F16}:
		convertF32ToF16NEON(d, s, steps)
	case [2]Elem{BF16, F32}:
		convertBF16ToF32NEON(d, s, steps)
	case [2]Elem{BF16, F16}:
		convertBF16ToF16NEON(d, s, steps)
	case [2]Elem{F16, F32}:
		convertF16ToF32NEON(d, s, steps)
	case [2]Elem{F16, BF16}:
		convertF16ToBF16NEON(d, s, steps)
	case [2]Elem{F8E4M3, F32}:
		convertE4M3ToF32NEON(d, s, steps)
	case [2]Elem{F8E4M3, BF16}:
		convertE4M3ToBF16NEON(d, s, steps)
	case [2]Elem{F8E4M3, F16}:
		convertE4M3ToF16NEON(d, s, steps)
	case [2]Elem{F8E5M2, F32}:
		convertE5M2ToF32NEON(d, s, steps)
	case [2]Elem{F8E5M2, BF16}:
		convertE5M2ToBF16NEON(d, s, steps)
	case [2]Elem{F8E5M2, F16}:
		convertE5M2ToF16NEON(d, s, steps)
	default:
		return 0
	}
	return 32 * steps
}
