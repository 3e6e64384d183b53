package main

import "fmt"

var (
	codesArgs   = []arg{{"codes", "*byte"}, {"absmax", "*float32"}, {"src", "*byte"}, {"blocks", "int"}, {"blockSize", "int"}, {"t", "*byte"}}
	absmaxArgs  = []arg{{"absmax", "*float32"}, {"src", "*byte"}, {"blocks", "int"}, {"blockSize", "int"}}
	decodeArgs  = []arg{{"dst", "*byte"}, {"codes", "*byte"}, {"absmax", "*float32"}, {"blocks", "int"}, {"blockSize", "int"}, {"values", "*float32"}}
	sumsArgs    = []arg{{"l", "*float64"}, {"src", "*byte"}, {"codes", "*byte"}, {"scale", "*float32"}, {"blocks", "int"}, {"blockSize", "int"}, {"values", "*float32"}}
	convertArgs = []arg{{"dst", "*byte"}, {"src", "*byte"}, {"steps", "int"}}
)

const blocksDoc = "for full blocks of a multiple of 32 elements."

// absmax takes the maximum of the magnitudes as integers, as maxBits does.
func (g *generator) absmax(e elem) {
	g.begin(fmt.Sprintf("absmax%vNEON", e), "is absmaxGeneric "+blocksDoc, 0, absmaxArgs...)
	lane := "H8"
	g.all(0x7fff7fff, 31)
	if e == f32 {
		lane = "S4"
		g.all(0x7fffffff, 31)
	}
	g.loop("block", "R2", 1, func() {
		for v := 4; v < 8; v++ {
			g.op("VEOR V%d.B16, V%d.B16, V%d.B16", v, v, v)
		}
		g.op("MOVD R3, R4")
		g.loop("step", "R4", 32, func() {
			for range e.size() / 2 {
				g.op("VLD1.P 64(R1), [V0.B16, V1.B16, V2.B16, V3.B16]")
				for v := range 4 {
					g.op("VAND V31.B16, V%d.B16, V%d.B16", v, v)
					g.op("VUMAX V%d.%s, V%d.%s, V%d.%s", v, lane, v+4, lane, v+4, lane)
				}
			}
		})
		g.op("VUMAX V4.%s, V5.%s, V4.%s", lane, lane, lane)
		g.op("VUMAX V6.%s, V7.%s, V6.%s", lane, lane, lane)
		g.op("VUMAX V4.%s, V6.%s, V4.%s", lane, lane, lane)
		if e == f32 {
			g.word2(umaxvS4, 4, 4)
		} else {
			g.word2(umaxvH8, 4, 4)
		}
		switch e {
		case bf16:
			g.op("VSHL $16, V4.S4, V4.S4")
		case f16:
			g.word2(fcvtlS, 4, 4)
		}
		g.op("FMOVS.P F4, 4(R0)")
	})
	g.op("RET")
}

// deinterleave loads 32 elements and leaves the even ones in V0 to V3 and the odd ones in V4 to V7 as float32. For bf16
// V31 is the mask of the odd halves.
func (g *generator) deinterleave(e elem, src string) {
	switch e {
	case f32:
		for i := range 4 {
			g.op("VLD2.P 32(%s), [V20.S4, V21.S4]", src)
			g.op("VMOV V20.B16, V%d.B16", i)
			g.op("VMOV V21.B16, V%d.B16", 4+i)
		}
	case bf16:
		g.op("VLD1.P 64(%s), [V4.B16, V5.B16, V6.B16, V7.B16]", src)
		for i := range 4 {
			g.op("VSHL $16, V%d.S4, V%d.S4", 4+i, i)
			g.op("VAND V31.B16, V%d.B16, V%d.B16", 4+i, 4+i)
		}
	case f16:
		for i := range 2 {
			g.op("VLD2.P 32(%s), [V20.H8, V21.H8]", src)
			g.word2(fcvtlS, 2*i, 20)
			g.word2(fcvtl2S, 2*i+1, 20)
			g.word2(fcvtlS, 4+2*i, 21)
			g.word2(fcvtl2S, 4+2*i+1, 21)
		}
	}
}

// reciprocal fills V30 with 1/max(absmax, 1e-38), the absmax from 4(R1) and on; V29 holds ones. It uses R7, R8 and V20.
func (g *generator) reciprocal() {
	g.op("MOVWU.P 4(R1), R7")
	g.op("MOVD $0x006ce3ee, R8")
	g.op("CMP R8, R7")
	g.op("CSEL LO, R8, R7, R7")
	g.op("FMOVS R7, F20")
	g.op("FDIVS F20, F29, F20")
	g.op("VDUP V20.S[0], V30.S4")
}

// codes searches in 32 cells, as the AVX-512 kernel does (../codes.go). The tables are indexed a byte at a time: the
// four bytes of a threshold are looked up one by one and zipped together again.
//
// The table argument holds, in rows of 16 bytes: the ranks of the cells (2 rows), bytes 0 to 3 of their thresholds (2 rows
// each), the codes by rank, and the two thresholds of FP4 that the cells leave out, four times each.
func (g *generator) codes(e elem, fp4 bool) {
	// V0-V7 values, V8 and V9 outer thresholds, V10-V19 tables, V20-V25 temporaries.
	const scale, bias, minusOne, one, inv, mask = 26, 27, 28, 29, 30, 31
	g.begin(fmt.Sprintf("codes%s%vNEON", typeName(fp4), e), "is codesGeneric "+blocksDoc, 0, codesArgs...)
	g.op("VLD1.P 32(R5), [V10.B16, V11.B16]")
	g.op("VLD1.P 64(R5), [V12.B16, V13.B16, V14.B16, V15.B16]")
	g.op("VLD1.P 64(R5), [V16.B16, V17.B16, V18.B16, V19.B16]")
	if fp4 {
		g.op("ADD $16, R5, R6")
		g.op("VLD1 (R6), [V8.B16, V9.B16]")
	}
	g.all(0x41766666, scale) // 15.4
	g.all(0x4b400010, bias)  // 1.5*2^23 + 16
	g.all(0xbf800000, minusOne)
	g.all(0x3f800000, one)
	if e == bf16 {
		g.all(0xffff0000, mask)
	}
	// search replaces the values in V(v) to V(v+3) by their ranks, one a byte, in V(v).
	search := func(v int) {
		for i := range 4 {
			g.word3(fmulS4, v+i, v+i, inv)
			g.word3(fminnmS4, v+i, v+i, one)
			g.word3(fmaxnmS4, v+i, v+i, minusOne)
			g.op("VMOV V%d.B16, V%d.B16", bias, 20+i)
			g.op("VFMLA V%d.S4, V%d.S4, V%d.S4", scale, v+i, 20+i)
		}
		g.pair("VUZP1", "H8", 20, 20, 21)
		g.pair("VUZP1", "H8", 22, 22, 23)
		g.pair("VUZP1", "B16", 25, 20, 22)
		g.op("VTBL V25.B16, [V10.B16, V11.B16], V24.B16")
		for i := range 4 {
			g.op("VTBL V25.B16, [V%d.B16, V%d.B16], V%d.B16", 12+2*i, 13+2*i, 20+i)
		}
		g.pair("VZIP1", "B16", 25, 20, 21)
		g.pair("VZIP2", "B16", 20, 20, 21)
		g.pair("VZIP1", "B16", 21, 22, 23)
		g.pair("VZIP2", "B16", 22, 22, 23)
		g.pair("VZIP1", "H8", 23, 25, 21)
		g.pair("VZIP2", "H8", 25, 25, 21)
		g.pair("VZIP1", "H8", 21, 20, 22)
		g.pair("VZIP2", "H8", 20, 20, 22)
		threshold := [4]int{23, 25, 21, 20}
		for i, t := range threshold {
			g.word3(fcmgtS4, t, v+i, t)
			if fp4 {
				for outer := 8; outer <= 9; outer++ {
					g.word3(fcmgtS4, 22, v+i, outer)
					g.op("VADD V22.S4, V%d.S4, V%d.S4", t, t)
				}
			}
		}
		g.pair("VUZP1", "H8", 23, 23, 25)
		g.pair("VUZP1", "H8", 21, 21, 20)
		g.pair("VUZP1", "B16", 23, 23, 21)
		g.op("VSUB V23.B16, V24.B16, V%d.B16", v)
	}
	g.loop("block", "R3", 1, func() {
		g.reciprocal()
		g.op("MOVD R4, R6")
		g.loop("step", "R6", 32, func() {
			g.deinterleave(e, "R2")
			search(0)
			search(4)
			if fp4 {
				g.op("VLD1 (R5), [V20.B16]")
				g.op("VTBL V0.B16, [V20.B16], V0.B16")
				g.op("VTBL V4.B16, [V20.B16], V4.B16")
			}
			g.op("VSHL $4, V0.B16, V0.B16")
			g.op("VORR V4.B16, V0.B16, V0.B16")
			g.op("VST1.P [V0.B16], 16(R0)")
		})
	})
	g.op("RET")
}

// pair writes an instruction of the zip family: Vd from Vn and Vm.
func (g *generator) pair(name, lane string, d, n, m int) {
	g.op("%s V%d.%s, V%d.%s, V%d.%s", name, m, lane, n, lane, d, lane)
}

// byteTables leaves in V10 to V13 bytes 0 to 3 of the 16 words in V20 to V23. It overwrites those.
func (g *generator) byteTables() {
	g.pair("VUZP1", "B16", 24, 20, 21)
	g.pair("VUZP2", "B16", 25, 20, 21)
	g.pair("VUZP1", "B16", 20, 22, 23)
	g.pair("VUZP2", "B16", 21, 22, 23)
	g.pair("VUZP1", "B16", 10, 24, 20)
	g.pair("VUZP2", "B16", 12, 24, 20)
	g.pair("VUZP1", "B16", 11, 25, 21)
	g.pair("VUZP2", "B16", 13, 25, 21)
}

// narrowConstants sets up V29 to V31 for narrow to bf16.
func (g *generator) narrowConstants(to elem) {
	if to == bf16 {
		g.all(1, 31)
		g.all(0x7fff, 30)
		g.all(0x00400000, 29)
	}
}

// narrow rounds the float32 values of V(a) and V(b) to eight words in V(d). It uses V24 to V26.
func (g *generator) narrow(to elem, d, a, b int) {
	if to == f16 {
		g.word2(fcvtnH, d, a)
		g.word2(fcvtn2H, d, b)
		return
	}
	for i, v := range []int{a, b} {
		g.word3(fcmeqS4, 24, v, v) // false for NaN alone
		g.op("VUSHR $16, V%d.S4, V25.S4", v)
		g.op("VAND V31.B16, V25.B16, V25.B16")
		g.op("VADD V%d.S4, V25.S4, V25.S4", v)
		g.op("VADD V30.S4, V25.S4, V25.S4")
		g.op("VORR V29.B16, V%d.B16, V26.B16", v)
		g.op("VBSL V26.B16, V25.B16, V24.B16")
		if i == 0 {
			g.word2(shrn16, d, 24)
		} else {
			g.word2(shrn216, d, 24)
		}
	}
}

// dequantize rounds the 16 possible values of a block once and then looks them up a byte at a time; the store puts the
// bytes together.
func (g *generator) dequantize(e elem) {
	g.begin(fmt.Sprintf("dequantize%vNEON", e), "is dequantizeGeneric "+blocksDoc, 0, decodeArgs...)
	g.op("VLD1 (R5), [V16.S4, V17.S4, V18.S4, V19.S4]")
	g.op("VMOVI $15, V28.B16")
	g.narrowConstants(e)
	g.loop("block", "R3", 1, func() {
		g.op("FMOVS.P 4(R2), F20")
		g.op("VDUP V20.S[0], V27.S4")
		for i := range 4 {
			g.word3(fmulS4, 20+i, 16+i, 27)
		}
		if e == f32 {
			g.byteTables()
		} else {
			g.narrow(e, 0, 20, 21)
			g.narrow(e, 1, 22, 23)
			g.pair("VUZP1", "B16", 10, 0, 1)
			g.pair("VUZP2", "B16", 11, 0, 1)
		}
		g.op("MOVD R4, R6")
		g.loop("step", "R6", 32, func() {
			g.op("VLD1.P 16(R1), [V0.B16]")
			g.op("VUSHR $4, V0.B16, V1.B16")
			g.op("VAND V28.B16, V0.B16, V0.B16")
			g.pair("VZIP1", "B16", 2, 1, 0)
			g.pair("VZIP2", "B16", 3, 1, 0)
			for i := 2; i <= 3; i++ {
				for b := range e.size() {
					g.op("VTBL V%d.B16, [V%d.B16], V%d.B16", i, 10+b, 4+b)
				}
				if e == f32 {
					g.op("VST4.P [V4.B16, V5.B16, V6.B16, V7.B16], 64(R0)")
				} else {
					g.op("VST2.P [V4.B16, V5.B16], 32(R0)")
				}
			}
		})
	})
	g.op("RET")
}

// errorSums decodes 32 elements to float32 in local memory, even and odd ones apart, and then adds them up, two lanes at a
// time. The sums wait in the lanes themselves.
func (g *generator) errorSums(e elem) {
	g.begin(fmt.Sprintf("errorSums%vNEON", e), "is errorSumsGeneric "+blocksDoc, 256, sumsArgs...)
	g.op("MOVD $scratch-256(SP), R10")
	g.op("VLD1 (R6), [V16.S4, V17.S4, V18.S4, V19.S4]")
	g.op("VMOVI $15, V30.B16")
	if e == bf16 {
		g.all(0xffff0000, 31)
	}
	g.loop("block", "R4", 1, func() {
		g.op("FMOVS.P 4(R3), F20")
		g.op("VDUP V20.S[0], V27.S4")
		for i := range 4 {
			g.word3(fmulS4, 20+i, 16+i, 27)
		}
		g.byteTables()
		g.op("MOVD R5, R7")
		g.loop("step", "R7", 32, func() {
			g.deinterleave(e, "R1")
			g.op("MOVD R10, R11")
			g.op("VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R11)")
			g.op("VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R11)")
			g.op("VLD1.P 16(R2), [V1.B16]")
			g.op("VUSHR $4, V1.B16, V0.B16")
			g.op("VAND V30.B16, V1.B16, V1.B16")
			for i := range 2 {
				for b := range 4 {
					g.op("VTBL V%d.B16, [V%d.B16], V%d.B16", i, 10+b, 4+b)
				}
				g.op("VST4.P [V4.B16, V5.B16, V6.B16, V7.B16], 64(R11)")
			}
			for h := range 4 {
				for i := range 6 {
					g.op("FMOVQ %d(R0), F%d", 64*i+16*h, 24+i)
				}
				for row := range 2 {
					for odd := range 2 {
						at := 64*odd + 32*row + 8*h
						g.op("FMOVD %d(R10), F0", at)
						g.op("FMOVD %d(R10), F1", 128+at)
						g.word2(fcvtlD, 0, 0)
						g.word2(fcvtlD, 1, 1)
						g.word3(fsubD2, 2, 0, 1)
						g.op("VFMLA V0.D2, V0.D2, V24.D2")
						g.op("VFMLA V1.D2, V1.D2, V25.D2")
						g.op("VFMLA V1.D2, V0.D2, V26.D2")
						g.word3(fmulD2, 3, 2, 2)
						g.word3(faddD2, 27, 27, 3)
						g.word2(fabsD2, 2, 2)
						g.word3(faddD2, 28, 28, 2)
						g.word3(fmaxnmD2, 29, 29, 2)
					}
				}
				for i := range 6 {
					g.op("FMOVQ F%d, %d(R0)", 24+i, 64*i+16*h)
				}
			}
		})
	})
	g.op("RET")
}

// convert does eight elements at a time.
func (g *generator) convert(from, to elem) {
	g.begin(fmt.Sprintf("convert%vTo%vNEON", from, to), "is convertGeneric for steps of 32 elements.", 0, convertArgs...)
	g.narrowConstants(to)
	g.op("VEOR V28.B16, V28.B16, V28.B16")
	if from == e4m3 {
		g.all(0x80008000, 16)
		g.all(0x3f803f80, 17)
		g.all(0x43800000, 18) // 256
		g.all(0x7fffffff, 19)
		g.all(0x43f00000, 20) // 480
		g.all(0x80000000, 21)
		g.all(0x7fc00000, 22)
	}
	g.op("LSL $2, R2, R2")
	g.loop("step", "R2", 1, func() {
		g.widen(from)
		if to == f32 {
			g.op("VST1.P [V0.S4, V1.S4], 32(R0)")
		} else {
			g.narrow(to, 2, 0, 1)
			g.op("VST1.P [V2.H8], 16(R0)")
		}
	})
	g.op("RET")
}

// widen loads eight elements from 0(R1) and on as float32 into V0 and V1; V28 is zero.
func (g *generator) widen(e elem) {
	switch e {
	case f32:
		g.op("VLD1.P 32(R1), [V0.S4, V1.S4]")
	case bf16:
		g.op("VLD1.P 16(R1), [V2.H8]")
		g.pair("VZIP1", "H8", 0, 28, 2)
		g.pair("VZIP2", "H8", 1, 28, 2)
	case f16:
		g.op("VLD1.P 16(R1), [V2.H8]")
		g.word2(fcvtlS, 0, 2)
		g.word2(fcvtl2S, 1, 2)
	case e5m2:
		g.op("VLD1.P 8(R1), [V2.B8]")
		g.pair("VZIP1", "B16", 2, 28, 2)
		g.word2(fcvtlS, 0, 2)
		g.word2(fcvtl2S, 1, 2)
	case e4m3:
		// As in fp8Tables: the bits in a half's place are 2^-8 of the value, and what would be 480 is the NaN.
		g.op("VLD1.P 8(R1), [V2.B8]")
		g.op("VUXTL V2.B8, V2.H8")
		g.op("VSHL $8, V2.H8, V3.H8")
		g.op("VSHL $7, V2.H8, V2.H8")
		g.op("VAND V16.B16, V3.B16, V3.B16")
		g.op("VAND V17.B16, V2.B16, V2.B16")
		g.op("VORR V3.B16, V2.B16, V2.B16")
		g.word2(fcvtlS, 0, 2)
		g.word2(fcvtl2S, 1, 2)
		for v := range 2 {
			g.word3(fmulS4, v, v, 18)
			g.op("VAND V19.B16, V%d.B16, V3.B16", v)
			g.op("VCMEQ V20.S4, V3.S4, V3.S4")
			g.op("VAND V21.B16, V%d.B16, V4.B16", v)
			g.op("VORR V22.B16, V4.B16, V4.B16")
			g.op("VBSL V%d.B16, V4.B16, V3.B16", v)
			g.op("VMOV V3.B16, V%d.B16", v)
		}
	}
}
