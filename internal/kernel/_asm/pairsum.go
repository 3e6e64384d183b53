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

// deltaSumsAVX2 has the four sums of eight lanes in eight registers. The largest magnitude is found in float32, and does not
// depend on an order.
func deltaSumsAVX2() {
	const name = "deltaSumsAVX2"
	TEXT(name, 8|4, "func(l *float64, largest, w, d, v *float32, by float32, steps int)")
	Doc(name + " is deltaSumsGeneric for steps of 8 elements, at least one.")
	Pragma("noescape")
	l, largest, w, d, v := ptr("l"), ptr("largest"), ptr("w"), ptr("d"), ptr("v")
	by := broadcastParam("by")
	most, magnitude := YMM(), allY(word(0x7fffffff))
	VMOVUPS(largest, most)
	const w2, d2, dr, e2, count = 0, 1, 2, 3, 4
	var acc [count][2]VecVirtual
	for i := range acc {
		for h := range acc[i] {
			acc[i][h] = YMM()
			VMOVUPD(l.Offset(64*i+32*h), acc[i][h])
		}
	}
	n := Load(Param("steps"), GP64())
	loop("step", n, 1, func() {
		x, r, base, delta, change := YMM(), YMM(), YMM(), YMM(), YMM()
		VMULPS(d, by, x)
		VMOVUPS(v, r)
		VSUBPS(w, r, r)
		VANDPS(magnitude, x, delta)
		VMAXPS(most, delta, most) // a NaN leaves it
		for h := range 2 {
			VCVTPS2PD(w.Offset(16*h), base)
			if h > 0 {
				VEXTRACTF128(Imm(1), x, x.AsX())
				VEXTRACTF128(Imm(1), r, r.AsX())
			}
			VCVTPS2PD(x.AsX(), delta)
			VCVTPS2PD(r.AsX(), change)
			VFMADD231PD(base, base, acc[w2][h])
			VFMADD231PD(delta, delta, acc[d2][h])
			VFMADD231PD(delta, change, acc[dr][h])
			VSUBPD(change, delta, delta)
			VMULPD(delta, delta, delta)
			VADDPD(delta, acc[e2][h], acc[e2][h])
		}
		advance(w, 32)
		advance(d, 32)
		advance(v, 32)
	})
	VMOVUPS(most, largest)
	for i := range acc {
		for h := range acc[i] {
			VMOVUPD(acc[i][h], l.Offset(64*i+32*h))
		}
	}
	VZEROUPPER()
	RET()
}
