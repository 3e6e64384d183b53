//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// detect reports what the processor and the operating system offer. Every processor with AVX2 and FMA has F16C too.
func detect() (list []implementation) {
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX2 && x.HasFMA {
		list = append(list, avx512)
	}
	if x.HasAVX2 && x.HasFMA {
		list = append(list, avx2)
	}
	return list
}

func absmaxBlocks(e Elem, absmax []float32, src []byte, blockSize int) int {
	n := fullBlocks(e, src, absmax, blockSize)
	if n == 0 {
		return 0
	}
	switch e {
	case F32:
		absmaxF32AVX2(&absmax[0], &src[0], n, blockSize)
	case BF16:
		absmaxBF16AVX2(&absmax[0], &src[0], n, blockSize)
	case F16:
		absmaxF16AVX2(&absmax[0], &src[0], n, blockSize)
	default:
		return 0
	}
	return n
}

func codesBlocks(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) int {
	n := fullBlocks(e, src, absmax, blockSize)
	if n == 0 {
		return 0
	}
	_ = codes[n*blockSize/2-1]
	c, a, s := &codes[0], &absmax[0], &src[0]
	if current == avx512 && int(t) < len(cellTables) {
		table := &cellTables[t].threshold[0]
		switch {
		case t == NF4 && e == F32:
			codesNF4F32AVX512(c, a, s, n, blockSize, table)
		case t == NF4 && e == BF16:
			codesNF4BF16AVX512(c, a, s, n, blockSize, table)
		case t == NF4 && e == F16:
			codesNF4F16AVX512(c, a, s, n, blockSize, table)
		case t == FP4 && e == F32:
			codesFP4F32AVX512(c, a, s, n, blockSize, table)
		case t == FP4 && e == BF16:
			codesFP4BF16AVX512(c, a, s, n, blockSize, table)
		case t == FP4 && e == F16:
			codesFP4F16AVX512(c, a, s, n, blockSize, table)
		default:
			return 0
		}
		return n
	}
	table := &bisections[t].level[0][0]
	switch {
	case t != FP4 && e == F32:
		codesNF4F32AVX2(c, a, s, n, blockSize, table)
	case t != FP4 && e == BF16:
		codesNF4BF16AVX2(c, a, s, n, blockSize, table)
	case t != FP4 && e == F16:
		codesNF4F16AVX2(c, a, s, n, blockSize, table)
	case t == FP4 && e == F32:
		codesFP4F32AVX2(c, a, s, n, blockSize, table)
	case t == FP4 && e == BF16:
		codesFP4BF16AVX2(c, a, s, n, blockSize, table)
	case t == FP4 && e == F16:
		codesFP4F16AVX2(c, a, s, n, blockSize, table)
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
	wide := current == avx512
	switch e {
	case F32:
		if wide {
			dequantizeF32AVX512(d, c, a, n, blockSize, v)
		} else {
			dequantizeF32AVX2(d, c, a, n, blockSize, v)
		}
	case BF16:
		if wide {
			dequantizeBF16AVX512(d, c, a, n, blockSize, v)
		} else {
			dequantizeBF16AVX2(d, c, a, n, blockSize, v)
		}
	case F16:
		if wide {
			dequantizeF16AVX512(d, c, a, n, blockSize, v)
		} else {
			dequantizeF16AVX2(d, c, a, n, blockSize, v)
		}
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
	wide := current == avx512
	switch e {
	case F32:
		if wide {
			errorSumsF32AVX512(sums, s, c, a, n, blockSize, v)
		} else {
			errorSumsF32AVX2(sums, s, c, a, n, blockSize, v)
		}
	case BF16:
		if wide {
			errorSumsBF16AVX512(sums, s, c, a, n, blockSize, v)
		} else {
			errorSumsBF16AVX2(sums, s, c, a, n, blockSize, v)
		}
	case F16:
		if wide {
			errorSumsF16AVX512(sums, s, c, a, n, blockSize, v)
		} else {
			errorSumsF16AVX2(sums, s, c, a, n, blockSize, v)
		}
	default:
		return 0
	}
	return n
}

// finiteSteps returns a number of leading elements that the assembly has found finite: up to 64 bytes before the first that is
// not, or before the end.
func finiteSteps(e Elem, src []byte) int {
	steps := len(src) / 64
	if current == generic || steps == 0 {
		return 0
	}
	switch e {
	case F32:
		return 16 * finiteF32AVX2(&src[0], steps)
	case BF16:
		return 32 * finiteBF16AVX2(&src[0], steps)
	case F16:
		return 32 * finiteF16AVX2(&src[0], steps)
	}
	return 0
}

// pairSumsSteps adds up as many leading elements as the assembly can and returns how many.
func pairSumsSteps(l *lanes, x, v []float32) int {
	steps := len(x) / 16
	if current == generic || steps == 0 {
		return 0
	}
	_ = v[16*steps-1]
	if current == avx512 {
		pairSumsAVX512(&l.x2[0], &x[0], &v[0], steps)
	} else {
		pairSumsAVX2(&l.x2[0], &x[0], &v[0], steps)
	}
	return 16 * steps
}

// deltaSumsSteps is pairSumsSteps of DeltaSums.
func deltaSumsSteps(l *deltaLanes, w, d []float32, by float32, v []float32) int {
	n := len(w) / 8 * 8
	if current == generic || n == 0 {
		return 0
	}
	_, _ = d[n-1], v[n-1]
	deltaSumsAVX2(&l.sum[0][0], &l.max[0], &w[0], &d[0], &v[0], by, n/8)
	return n
}

func e2m1Blocks(codes []byte, v, x, scale []float32, blockSize int) int {
	n := len(x) / blockSize
	if current == generic || blockSize%16 != 0 || n == 0 {
		return 0
	}
	_, _, _ = codes[n*blockSize/2-1], v[n*blockSize-1], scale[n-1]
	e2m1AVX2(&codes[0], &v[0], &x[0], &scale[0], n, blockSize, &e2m1Searcher.level[0][0])
	return n
}

// gridFitSteps is GridFit where the assembly can do all of it, and says whether it did.
func gridFitSteps(t Type, wq, qq, x, hx, h, inv []float32) bool {
	n := len(x)
	if current == generic || n == 0 || n%16 != 0 || len(inv) == 0 {
		return false
	}
	_, _, _, _ = hx[n-1], h[n-1], wq[len(inv)-1], qq[len(inv)-1]
	gridFitAVX2(&wq[0], &qq[0], &x[0], &hx[0], &h[0], n/16, &inv[0], len(inv), &fitTables[t].level[0][0])
	return true
}

// nearestSteps does as many leading elements as the assembly can and returns how many.
func nearestSteps(t Type, codes []byte, values, x, scales []float32) int {
	n := len(x) / 16 * 16
	if current == generic || n == 0 {
		return 0
	}
	_, _, _ = codes[n-1], values[n-1], scales[n-1]
	nearestAVX2(&codes[0], &values[0], &x[0], &scales[0], n/16, &fitTables[t].level[0][0])
	return n
}

func mulTile(c []float32, stride int, a, b []float32) bool {
	if current == generic || len(a) == 0 {
		return false
	}
	k := len(a) / TileRows
	_, _ = c[(TileRows-1)*stride+TileCols-1], b[k*TileCols-1]
	mulTileAVX2(&c[0], stride, &a[0], &b[0], k)
	return true
}

func mulRow(c, a, b []float32) bool {
	if current == generic || len(a) == 0 {
		return false
	}
	_, _ = c[TileCols-1], b[len(a)*TileCols-1]
	mulRowAVX2(&c[0], &a[0], &b[0], len(a))
	return true
}

// addScaledSteps does as many leading elements as the assembly can and returns how many.
func addScaledSteps(dst, c []float32, by float32, x []float32) int {
	n := len(dst) / 16 * 16
	if current == generic || n == 0 {
		return 0
	}
	_, _ = c[n-1], x[n-1]
	addScaledAVX2(&dst[0], &c[0], by, &x[0], n/16)
	return n
}

func dynamicQuantizeBlocks(codes []byte, nested, scales []float32, offset float32) int {
	n := len(scales) / DynamicBlock
	if current == generic || n == 0 {
		return 0
	}
	_, _ = codes[n*DynamicBlock-1], nested[n-1]
	dynamicQuantizeAVX2(&codes[0], &nested[0], &scales[0], n, offset, &dynamicSearcher.level[0][0])
	return n
}

func dynamicDequantizeBlocks(scales []float32, codes []byte, nested []float32, offset float32) int {
	n := len(codes) / DynamicBlock
	if current == generic || n == 0 {
		return 0
	}
	_, _ = scales[n*DynamicBlock-1], nested[n-1]
	dynamicDequantizeAVX2(&scales[0], &codes[0], &nested[0], n, offset, &dynamicMap[0])
	return n
}

// convertVector converts as many elements as the assembly can and returns how many. dst and src hold equally many.
func convertVector(dst []byte, de Elem, src []byte, se Elem) int {
	steps := len(dst) / de.Size() / 32
	if current == generic || steps == 0 {
		return 0
	}
	d, s := &dst[0], &src[0]
	switch [2]Elem{se, de} {
	case [2]Elem{F32, BF16}:
		convertF32ToBF16AVX2(d, s, steps)
	case [2]Elem{F32, F16}:
		convertF32ToF16AVX2(d, s, steps)
	case [2]Elem{BF16, F32}:
		convertBF16ToF32AVX2(d, s, steps)
	case [2]Elem{BF16, F16}:
		convertBF16ToF16AVX2(d, s, steps)
	case [2]Elem{F16, F32}:
		convertF16ToF32AVX2(d, s, steps)
	case [2]Elem{F16, BF16}:
		convertF16ToBF16AVX2(d, s, steps)
	case [2]Elem{F8E4M3, F32}:
		convertE4M3ToF32AVX2(d, s, steps)
	case [2]Elem{F8E4M3, BF16}:
		convertE4M3ToBF16AVX2(d, s, steps)
	case [2]Elem{F8E4M3, F16}:
		convertE4M3ToF16AVX2(d, s, steps)
	case [2]Elem{F8E5M2, F32}:
		convertE5M2ToF32AVX2(d, s, steps)
	case [2]Elem{F8E5M2, BF16}:
		convertE5M2ToBF16AVX2(d, s, steps)
	case [2]Elem{F8E5M2, F16}:
		convertE5M2ToF16AVX2(d, s, steps)
	default:
		return 0
	}
	return 32 * steps
}
