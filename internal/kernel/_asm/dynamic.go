package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dynamicQuantizeAVX2 bisects as codesAVX2 does, for eight levels. From the fifth on the thresholds are gathered from
// memory, where those of a level lie in descending order, since the index is negative.
//
// A block without spread divides 0 by 0; no comparison with a NaN holds, and the codes are 0 as they should be.
func dynamicQuantizeAVX2() {
	TEXT("dynamicQuantizeAVX2", 8|4, "func(codes *byte, nested, scales *float32, blocks int, offset float32, t *float32)")
	Doc("dynamicQuantizeAVX2 is dynamicQuantizeGeneric for full blocks, at least one.")
	Pragma("noescape")
	out, nested, src, table := ptr("codes"), ptr("nested"), ptr("scales"), ptr("t")
	n := Load(Param("blocks"), GP64())
	offset := YMM()
	addr, err := Param("offset").Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(addr.Addr, offset)
	var level [4]VecVirtual
	for i := range level {
		level[i] = YMM()
		VMOVUPS(table.Offset(32*i), level[i])
	}
	search := func(v VecVirtual) VecVirtual {
		s, t, all := YMM(), YMM(), YMM()
		next := func() {
			VCMPPS(Imm(gt), t, v, t)
			VPADDD(s, s, s)
			VPADDD(t, s, s)
		}
		VCMPPS(Imm(gt), level[0], v, s)
		VPERMILPS(s, level[1], t)
		next()
		VPERMILPS(s, level[2], t)
		next()
		VPERMPS(level[3], s, t)
		next()
		at := 4 * 32
		for count := 16; count <= 128; count *= 2 {
			VPCMPEQD(all, all, all)
			VGATHERDPS(all, Mem{Base: table.Base, Index: s, Scale: 4, Disp: at + 4*(count-1)}, t)
			next()
			at += 4 * count
		}
		VPABSD(s, s)
		return s
	}
	magnitude := allRows("magnitude", 0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff)
	loop("block", n, 1, func() {
		m := YMM()
		VPXOR(m, m, m)
		left := GP64()
		MOVQ(U32(256), left)
		p := GP64()
		MOVQ(src.Base, p)
		loop("max", left, 16, func() {
			for i := range 2 {
				d := YMM()
				VMOVUPS(Mem{Base: p, Disp: 32 * i}, d)
				VSUBPS(offset, d, d)
				VPAND(magnitude, d, d)
				VPMAXUD(d, m, m)
			}
			ADDQ(Imm(64), p)
		})
		foldMax(f32, m, nested)
		VBROADCASTSS(nested, m)
		advance(nested, 4)
		MOVQ(U32(256), left)
		loop("search", left, 32, func() {
			var c [4]VecVirtual
			for i := range c {
				d := YMM()
				VMOVUPS(src.Offset(32*i), d)
				VSUBPS(offset, d, d)
				VDIVPS(m, d, d)
				c[i] = search(d)
			}
			VPACKUSDW(c[1], c[0], c[0])
			VPACKUSDW(c[3], c[2], c[2])
			VPACKUSWB(c[2], c[0], c[0])
			order := YMM()
			VMOVDQU(words("packed", 0, 4, 1, 5, 2, 6, 3, 7), order)
			VPERMD(c[0], order, c[0])
			VMOVDQU(c[0], out)
			advance(src, 128)
			advance(out, 32)
		})
	})
	VZEROUPPER()
	RET()
}

// dynamicDequantizeAVX2 gathers the values of the codes from the map.
func dynamicDequantizeAVX2() {
	TEXT("dynamicDequantizeAVX2", 8|4, "func(scales *float32, codes *byte, nested *float32, blocks int, offset float32, values *float32)")
	Doc("dynamicDequantizeAVX2 is dynamicDequantizeGeneric for full blocks, at least one.")
	Pragma("noescape")
	out, codes, nested, table := ptr("scales"), ptr("codes"), ptr("nested"), ptr("values")
	n := Load(Param("blocks"), GP64())
	offset := YMM()
	addr, err := Param("offset").Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(addr.Addr, offset)
	loop("block", n, 1, func() {
		m := YMM()
		VBROADCASTSS(nested, m)
		advance(nested, 4)
		left := GP64()
		MOVQ(U32(256), left)
		loop("step", left, 16, func() {
			for i := range 2 {
				idx, all, v := YMM(), YMM(), YMM()
				VPMOVZXBD(codes.Offset(8*i), idx)
				VPCMPEQD(all, all, all)
				VGATHERDPS(all, Mem{Base: table.Base, Index: idx, Scale: 4}, v)
				VMULPS(m, v, v)
				VADDPS(offset, v, v)
				VMOVUPS(v, out.Offset(32*i))
			}
			advance(codes, 16)
			advance(out, 64)
		})
	})
	VZEROUPPER()
	RET()
}
