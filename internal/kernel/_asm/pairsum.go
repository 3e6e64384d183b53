package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const pairSumsArgs = "func(l *float64, x, v *float32, steps int)"

// pairSumsAVX512 takes 16 elements at a time, the even ones first, as the order of a lane is.
func pairSumsAVX512() {
	const name = "pairSumsAVX512"
	TEXT(name, 8|4, pairSumsArgs)
	Doc(name + " is pairSumsGeneric for steps of 16 elements, at least one.")
	Pragma("noescape")
	l, x, v := ptr("l"), ptr("x"), ptr("v")
	magnitude, split := ZMM(), ZMM()
	VPBROADCASTQ(words("magnitude64", 0xffffffff, 0x7fffffff), magnitude)
	VMOVDQU32(words("evenodd", 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), split)
	acc := make([]VecVirtual, numSums)
	for i := range acc {
		acc[i] = ZMM()
		VMOVUPD(l.Offset(64*i), acc[i])
	}
	widen := func(src Mem) (even, odd VecVirtual) {
		r, upper := ZMM(), YMM()
		even, odd = ZMM(), ZMM()
		VPERMPS(src, split, r)
		VEXTRACTF64X4(Imm(1), r, upper)
		VCVTPS2PD(r.AsY(), even)
		VCVTPS2PD(upper, odd)
		return even, odd
	}
	n := Load(Param("steps"), GP64())
	loop("step", n, 1, func() {
		xe, xo := widen(x)
		ve, vo := widen(v)
		t, u := ZMM(), ZMM()
		accumulate(acc, xe, ve, t, magnitude)
		accumulate(acc, xo, vo, u, magnitude)
		advance(x, 64)
		advance(v, 64)
	})
	for i := range acc {
		VMOVUPD(acc[i], l.Offset(64*i))
	}
	VZEROUPPER()
	RET()
}

// pairSumsAVX2 goes over the elements twice, for four lanes each time: the sums of eight do not fit the registers.
func pairSumsAVX2() {
	const name = "pairSumsAVX2"
	TEXT(name, 8|4, pairSumsArgs)
	Doc(name + " is pairSumsGeneric for steps of 16 elements, at least one.")
	Pragma("noescape")
	l := ptr("l")
	magnitude := YMM()
	VBROADCASTSD(words("magnitude64", 0xffffffff, 0x7fffffff), magnitude)
	widen := func(src Mem) (even, odd VecVirtual) {
		r, e, o := XMM(), XMM(), XMM()
		even, odd = YMM(), YMM()
		VMOVUPS(src, r)
		VSHUFPS(Imm(0x88), src.Offset(16), r, e)
		VSHUFPS(Imm(0xdd), src.Offset(16), r, o)
		VCVTPS2PD(e, even)
		VCVTPS2PD(o, odd)
		return even, odd
	}
	for h, label := range []string{"lower", "upper"} {
		x, v := ptr("x"), ptr("v")
		acc := make([]VecVirtual, numSums)
		for i := range acc {
			acc[i] = YMM()
			VMOVUPD(l.Offset(64*i+32*h), acc[i])
		}
		n := Load(Param("steps"), GP64())
		loop(label, n, 1, func() {
			xe, xo := widen(x.Offset(32 * h))
			ve, vo := widen(v.Offset(32 * h))
			t, u := YMM(), YMM()
			accumulate(acc, xe, ve, t, magnitude)
			accumulate(acc, xo, vo, u, magnitude)
			advance(x, 64)
			advance(v, 64)
		})
		for i := range acc {
			VMOVUPD(acc[i], l.Offset(64*i+32*h))
		}
	}
	VZEROUPPER()
	RET()
}
