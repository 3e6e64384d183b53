package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const errorSumsArgs = "func(l *float64, src *byte, codes *byte, scale *float32, blocks, blockSize int, values *float32)"

// The sums in the order of lanes.
const (
	sumX2 = iota
	sumW2
	sumXW
	sumE2
	sumAbsE
	maxAbsE
	numSums
)

// accumulate adds what lanes.add adds for one element in every place. The products of float32 values are exact, so it
// may fuse them; the square of e is rounded first. VMAXPD returns its second operand unless the first is greater, which is
// what lanes.add does with a NaN.
func accumulate(acc []VecVirtual, x, w, e VecVirtual, magnitude Op) {
	VSUBPD(w, x, e)
	VFMADD231PD(x, x, acc[sumX2])
	VFMADD231PD(w, w, acc[sumW2])
	VFMADD231PD(w, x, acc[sumXW])
	VMULPD(e, e, x)
	VADDPD(x, acc[sumE2], acc[sumE2])
	VANDPD(magnitude, e, e)
	VADDPD(e, acc[sumAbsE], acc[sumAbsE])
	VMAXPD(acc[maxAbsE], e, acc[maxAbsE])
}

// scratch reserves local memory and returns it aligned to 64 bytes.
func scratch(size int) Mem {
	local := AllocLocal(size + 64)
	p := GP64()
	LEAQ(local, p)
	ADDQ(Imm(63), p)
	ANDQ(I32(-64), p)
	return Mem{Base: p}
}

// errorSumsAVX512 looks the decoded values up as float64. The elements go through memory, since widening to float64 from
// there does without a shuffle.
func errorSumsAVX512(e elem) {
	name := fmt.Sprintf("errorSums%vAVX512", e)
	TEXT(name, 8, errorSumsArgs)
	Doc(name + " is errorSumsGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	l, src, codes, scale, values := ptr("l"), ptr("src"), ptr("codes"), ptr("scale"), ptr("values")
	v, magnitude := ZMM(), ZMM()
	VMOVUPS(values, v)
	VPBROADCASTQ(words("magnitude64", 0xffffffff, 0x7fffffff), magnitude)
	ld := newLoader512(e)
	buf := scratch(128)
	acc := make([]VecVirtual, numSums)
	for i := range acc {
		acc[i] = ZMM()
		VMOVUPD(l.Offset(64*i), acc[i])
	}
	n := Load(Param("blocks"), GP64())
	size := Load(Param("blockSize"), GP64())
	loop("block", n, 1, func() {
		w, w0, w1 := ZMM(), ZMM(), ZMM()
		VBROADCASTSS(scale, w)
		VMULPS(v, w, w)
		advance(scale, 4)
		VCVTPS2PD(w.AsY(), w0)
		upper := YMM()
		VEXTRACTF64X4(Imm(1), w, upper)
		VCVTPS2PD(upper, w1)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			even, odd := ld.deinterleave(src)
			VMOVAPS(even, buf)
			VMOVAPS(odd, buf.Offset(64))
			for i := range 2 {
				xe, xo, we, wo, t := ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
				VPMOVZXBQ(codes.Offset(8*i), wo)
				VPSRLQ(Imm(4), wo, we)
				VPERMI2PD(w1, w0, we)
				VPERMI2PD(w1, w0, wo)
				VCVTPS2PD(buf.Offset(32*i), xe)
				VCVTPS2PD(buf.Offset(64+32*i), xo)
				accumulate(acc, xe, we, t, magnitude)
				accumulate(acc, xo, wo, t, magnitude)
			}
			advance(src, 32*e.size())
			advance(codes, 16)
		})
	})
	for i := range acc {
		VMOVUPD(acc[i], l.Offset(64*i))
	}
	VZEROUPPER()
	RET()
}

// errorSumsAVX2 decodes 32 elements to float32 in memory, then adds them up with four lanes at a time.
func errorSumsAVX2(e elem) {
	name := fmt.Sprintf("errorSums%vAVX2", e)
	TEXT(name, 8, errorSumsArgs)
	Doc(name + " is errorSumsGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	l, src, codes, scale, values := ptr("l"), ptr("src"), ptr("codes"), ptr("scale"), ptr("values")
	var high VecVirtual
	if e == bf16 {
		high = allY(word(0xffff0000))
	}
	x := scratch(256)
	w := x.Offset(128)
	blocks(func(size GPVirtual) {
		s, a, b := YMM(), YMM(), YMM()
		VBROADCASTSS(scale, s)
		VMULPS(values, s, a)
		VMULPS(values.Offset(32), s, b)
		advance(scale, 4)
		tables := byteTables(f32, a, b)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			for g := range 2 {
				even, odd := deinterleaveAVX2(e, src.Offset(16*g*e.size()), high)
				if e != bf16 {
					VPERMQ(Imm(0xd8), even, even)
					VPERMQ(Imm(0xd8), odd, odd)
				}
				VMOVAPS(even, x.Offset(64*g))
				VMOVAPS(odd, x.Offset(64*g+32))
			}
			// The high nibbles of 16 bytes in the lower half, the low ones in the upper.
			idx := YMM()
			VBROADCASTI128(codes, idx)
			VPSRLVD(words("highlow", 4, 4, 4, 4, 0, 0, 0, 0), idx, idx)
			VPAND(allRows("nibbles32", 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f), idx, idx)
			for i, row := range lookUp(tables, idx) {
				VMOVDQA(row, w.Offset(32*i))
			}
			for h := range 2 {
				acc := make([]VecVirtual, numSums)
				for i := range acc {
					acc[i] = YMM()
					VMOVUPD(l.Offset(64*i+32*h), acc[i])
				}
				for g := range 2 {
					for odd := range 2 {
						xd, wd, t := YMM(), YMM(), YMM()
						VCVTPS2PD(x.Offset(64*g+32*odd+16*h), xd)
						VCVTPS2PD(w.Offset(64*g+32*h+16*odd), wd)
						accumulate(acc, xd, wd, t, words("magnitudes", 0xffffffff, 0x7fffffff, 0xffffffff, 0x7fffffff, 0xffffffff, 0x7fffffff, 0xffffffff, 0x7fffffff))
					}
				}
				for i := range acc {
					VMOVUPD(acc[i], l.Offset(64*i+32*h))
				}
			}
			advance(src, 32*e.size())
			advance(codes, 16)
		})
	})
}
