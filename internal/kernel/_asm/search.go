package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// gridFitAVX2 finds codes as codesAVX2 does, but for the last level, which chooses between two values, not two ranks. A
// step takes 16 elements, of which each half has its own sums.
func gridFitAVX2() {
	const name = "gridFitAVX2"
	TEXT(name, 8|4, "func(wq, qq *float32, x, hx, h *float32, steps int, inv *float32, candidates int, t *float32)")
	Doc(name + " is gridFitGeneric for steps of 16 elements, at least one, and at least one candidate.")
	Pragma("noescape")
	wq, qq, x, hx, h, inv, table := ptr("wq"), ptr("qq"), ptr("x"), ptr("hx"), ptr("h"), ptr("inv"), ptr("t")
	var level [4]VecVirtual
	for i := range level {
		level[i] = YMM()
		VMOVUPS(table.Offset(32*i), level[i])
	}
	lower, upper := YMM(), YMM()
	VMOVUPS(table.Offset(128), lower)
	VMOVUPS(table.Offset(160), upper)
	steps := Load(Param("steps"), GP64())
	n := Load(Param("candidates"), GP64())
	loop("candidate", n, 1, func() {
		r := YMM()
		VBROADCASTSS(inv, r)
		advance(inv, 4)
		var a, c [2]VecVirtual
		for i := range 2 {
			a[i], c[i] = YMM(), YMM()
			VXORPS(a[i], a[i], a[i])
			VXORPS(c[i], c[i], c[i])
		}
		left, at := GP64(), GP64()
		MOVQ(steps, left)
		XORQ(at, at)
		in := func(m Mem, i int) Mem { return Mem{Base: m.Base, Index: at, Scale: 1, Disp: 32 * i} }
		loop("step", left, 1, func() {
			for i := range 2 {
				v, s, t := YMM(), YMM(), YMM()
				VMULPS(in(x, i), r, v)
				VCMPPS(Imm(gt), level[0], v, s)
				for l := 1; l <= 2; l++ {
					VPERMILPS(s, level[l], t)
					VCMPPS(Imm(gt), t, v, t)
					VPADDD(s, s, s)
					VPADDD(t, s, s)
				}
				VPERMPS(level[3], s, t)
				VCMPPS(Imm(gt), t, v, t)
				VPERMPS(lower, s, v)
				VPERMPS(upper, s, s)
				VBLENDVPS(t, s, v, v)
				VMULPS(in(hx, i), v, s)
				VADDPS(s, a[i], a[i])
				VMULPS(in(h, i), v, s)
				VMULPS(v, s, s)
				VADDPS(s, c[i], c[i])
			}
			ADDQ(Imm(64), at)
		})
		for _, sum := range []struct {
			half [2]VecVirtual
			to   Mem
		}{{a, wq}, {c, qq}} {
			v, u := XMM(), XMM()
			VADDPS(sum.half[1], sum.half[0], sum.half[0])
			VEXTRACTF128(Imm(1), sum.half[0], u)
			VADDPS(u, sum.half[0].AsX(), v)
			VMOVHLPS(v, v, u)
			VADDPS(u, v, v)
			VMOVSHDUP(v, u)
			VADDSS(u, v, v)
			VMOVSS(v, sum.to)
			advance(sum.to, 4)
		}
	})
	VZEROUPPER()
	RET()
}

// nearestAVX2 takes eight elements at a time, each with its own scale.
func nearestAVX2() {
	const name = "nearestAVX2"
	TEXT(name, 8|4, "func(codes *byte, values, x, scales *float32, steps int, t *float32)")
	Doc(name + " is nearestGeneric for steps of 16 elements, at least one.")
	Pragma("noescape")
	codes, values, x, scales, table := ptr("codes"), ptr("values"), ptr("x"), ptr("scales"), ptr("t")
	row := func(i int) Mem { return table.Offset(32 * i) }
	magnitude, least, one := allY(word(0x7fffffff)), allY(float(1e-37)), allY(float(1))
	n := Load(Param("steps"), GP64())
	loop("step", n, 1, func() {
		var found [2]VecVirtual
		for i := range 2 {
			s, v, r, t, level := YMM(), YMM(), YMM(), YMM(), YMM()
			VMOVUPS(scales.Offset(32*i), s)
			VANDPS(magnitude, s, t)
			VCMPPS(Imm(ge), least, t, t)
			VDIVPS(s, one, v)
			VANDPS(t, v, v)
			VMULPS(x.Offset(32*i), v, v)
			VCMPPS(Imm(gt), row(0), v, r)
			for l := 1; l <= 2; l++ {
				VMOVUPS(row(l), level)
				VPERMILPS(r, level, t)
				VCMPPS(Imm(gt), t, v, t)
				VPADDD(r, r, r)
				VPADDD(t, r, r)
			}
			VPERMPS(row(3), r, t)
			VCMPPS(Imm(gt), t, v, t)
			lookUp := func(lower int) VecVirtual {
				a, b := YMM(), YMM()
				VPERMPS(row(lower), r, a)
				VPERMPS(row(lower+1), r, b)
				VBLENDVPS(t, b, a, a)
				return a
			}
			v = lookUp(4)
			VMULPS(s, v, v)
			VMOVUPS(v, values.Offset(32*i))
			found[i] = lookUp(6)
		}
		VPACKUSDW(found[1], found[0], found[0])
		VPERMQ(Imm(0xd8), found[0], found[0])
		upper := XMM()
		VEXTRACTI128(Imm(1), found[0], upper)
		VPACKUSWB(upper, found[0].AsX(), upper)
		VMOVDQU(upper, codes)
		advance(codes, 16)
		advance(values, 64)
		advance(x, 64)
		advance(scales, 64)
	})
	VZEROUPPER()
	RET()
}

const ge = 0x1d // VCMPPS: first operand not less, false for NaN, quiet
