package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const absmaxArgs = "func(absmax *float32, src *byte, blocks, blockSize int)"

// absmaxAVX2 takes the maximum of the magnitudes as integers, as maxBits does.
func absmaxAVX2(e elem) {
	TEXT(fmt.Sprintf("absmax%vAVX2", e), 8|4, absmaxArgs)
	Doc(fmt.Sprintf("absmax%vAVX2 is absmaxGeneric for full blocks of a multiple of 32 elements.", e))
	Pragma("noescape")
	out, src := ptr("absmax"), ptr("src")
	mask := allY(magnitudeMask(e))
	blocks(func(size GPVirtual) {
		a, b := YMM(), YMM()
		VPXOR(a, a, a)
		VPXOR(b, b, b)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			for i := 0; i < 32*e.size(); i += 64 {
				t, u := YMM(), YMM()
				VPAND(src.Offset(i), mask, t)
				VPAND(src.Offset(i+32), mask, u)
				maxInto(e, t, a)
				maxInto(e, u, b)
			}
			advance(src, 32*e.size())
		})
		maxInto(e, b, a)
		foldMax(e, a, out)
		advance(out, 4)
	})
}

func magnitudeMask(e elem) Mem {
	if e == f32 {
		return word(0x7fffffff)
	}
	return word(0x7fff7fff)
}

func maxInto(e elem, v, acc Op) {
	if e == f32 {
		VPMAXUD(v, acc, acc)
	} else {
		VPMAXUW(v, acc, acc)
	}
}

// foldMax stores the largest of the magnitudes in v as a float32.
func foldMax(e elem, v VecVirtual, out Mem) {
	x, half := v.AsX(), XMM()
	VEXTRACTI128(Imm(1), v, half)
	maxInto(e, half, x)
	if e == f32 {
		VPSHUFD(Imm(0x4e), x, half)
		VPMAXUD(half, x, x)
		VPSHUFD(Imm(0xb1), x, half)
		VPMAXUD(half, x, x)
		VMOVD(x, out)
		return
	}
	// There is an instruction for the minimum of eight words only.
	ones := XMM()
	VPCMPEQD(ones, ones, ones)
	VPXOR(ones, x, x)
	VPHMINPOSUW(x, x)
	VPXOR(ones, x, x)
	if e == bf16 {
		VPSLLD(Imm(16), x, x)
	} else {
		VCVTPH2PS(x, x)
	}
	VMOVD(x, out)
}
