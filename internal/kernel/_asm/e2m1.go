package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// e2m1AVX2 searches the magnitudes by bisection, as codesAVX2 does but with three levels, and looks the values up by the
// negated rank. It divides as the specification does, which is what takes the most time; wider registers would not help.
func e2m1AVX2() {
	const name = "e2m1AVX2"
	TEXT(name, 8|4, "func(codes *byte, v, x, scale *float32, blocks, blockSize int, t *float32)")
	Doc(name + " is e2m1Generic for full blocks of a multiple of 16 elements.")
	Pragma("noescape")
	out, v, x, scale, table := ptr("codes"), ptr("v"), ptr("x"), ptr("scale"), ptr("t")
	var level [3]VecVirtual
	for i := range level {
		level[i] = YMM()
		VMOVUPS(table.Offset(32*i), level[i])
	}
	values, magnitude := YMM(), allY(word(0x7fffffff))
	VMOVUPS(table.Offset(128), values)
	blocks(func(size GPVirtual) {
		s, used := YMM(), YMM()
		VBROADCASTSS(scale, s)
		VXORPS(used, used, used)
		VCMPPS(Imm(4), used, s, used) // not equal
		advance(scale, 4)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 16, func() {
			var code [2]VecVirtual
			for i := range code {
				m, sign, r, t := YMM(), YMM(), YMM(), YMM()
				VMOVUPS(x.Offset(32*i), sign)
				VANDPS(magnitude, sign, m)
				VANDNPS(sign, magnitude, sign)
				VDIVPS(s, m, m)
				VCMPPS(Imm(gt), level[0], m, r)
				VPERMILPS(r, level[1], t)
				VCMPPS(Imm(gt), t, m, t)
				VPADDD(r, r, r)
				VPADDD(t, r, r)
				VPERMILPS(r, level[2], t)
				VCMPPS(Imm(gt), t, m, t)
				VPADDD(r, r, r)
				VPADDD(t, r, r)
				VPERMPS(values, r, t)
				VMULPS(s, t, t)
				VORPS(sign, t, t)
				VANDPS(used, t, t)
				VMOVUPS(t, v.Offset(32*i))
				VPABSD(r, r)
				VPSRLD(Imm(28), sign, sign)
				VPOR(sign, r, r)
				VPAND(used, r, r)
				code[i] = r
			}
			// The halves of a register hold the codes of 4 elements of either row; 16 times the first of two plus the
			// second is a byte.
			b, upper := code[0], XMM()
			VPACKUSDW(code[1], b, b)
			VPMADDWD(allRows("nibblepairs", 0x00010010, 0x00010010, 0x00010010, 0x00010010), b, b)
			VPACKUSDW(b, b, b)
			VPACKUSWB(b, b, b)
			VEXTRACTI128(Imm(1), b, upper)
			VPUNPCKLWD(upper, b.AsX(), upper)
			VMOVQ(upper, out)
			advance(x, 64)
			advance(v, 64)
			advance(out, 8)
		})
	})
}
