package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const convertArgs = "func(dst, src *byte, steps int)"

func convertAVX2(from, to elem) {
	name := fmt.Sprintf("convert%vTo%vAVX2", from, to)
	TEXT(name, 8|4, convertArgs)
	Doc(name + " is convertGeneric for steps of 32 elements, at least one.")
	Pragma("noescape")
	dst, src := ptr("dst"), ptr("src")
	n := Load(Param("steps"), GP64())
	loop("step", n, 1, func() {
		for i := range 2 {
			a := widenAVX2(from, src.Offset(16*i*from.size()))
			b := widenAVX2(from, src.Offset((16*i+8)*from.size()))
			at := dst.Offset(16 * i * to.size())
			if to == f32 {
				VMOVUPS(a, at)
				VMOVUPS(b, at.Offset(32))
			} else {
				VMOVDQU(narrowAVX2(to, a, b), at)
			}
		}
		advance(src, 32*from.size())
		advance(dst, 32*to.size())
	})
	VZEROUPPER()
	RET()
}

// widenAVX2 loads 8 elements as float32.
func widenAVX2(e elem, src Mem) VecVirtual {
	v, x, t := YMM(), XMM(), XMM()
	switch e {
	case f32:
		VMOVUPS(src, v)
	case bf16:
		VPMOVZXWD(src, v)
		VPSLLD(Imm(16), v, v)
	case f16:
		VCVTPH2PS(src, v)
	case e5m2:
		VPMOVZXBW(src, x)
		VPSLLW(Imm(8), x, x)
		VCVTPH2PS(x, v)
	case e4m3:
		// As in fp8Tables: the bits in a half's place are 2^-8 of the value, and what would be 480 is the NaN.
		VPMOVZXBW(src, x)
		VPSLLW(Imm(8), x, t)
		VPSLLW(Imm(7), x, x)
		VPAND(constantRow("e4m3sign", 0x80008000), t, t)
		VPAND(constantRow("e4m3rest", 0x3f803f80), x, x)
		VPOR(t, x, x)
		VCVTPH2PS(x, v)
		VMULPS(allRows("scale256", f32row(256)...), v, v)
		magnitude, nan := YMM(), YMM()
		VANDPS(allRows("magnitude", 0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff), v, magnitude)
		VCMPPS(Imm(0), allRows("magnitude480", f32row(480)...), magnitude, magnitude)
		VANDPS(allRows("signs", 0x80000000, 0x80000000, 0x80000000, 0x80000000), v, nan)
		VORPS(allRows("nan32", 0x7fc00000, 0x7fc00000, 0x7fc00000, 0x7fc00000), nan, nan)
		VBLENDVPS(magnitude, nan, v, v)
	}
	return v
}

// f32row returns a float32 four times.
func f32row(f float32) []uint32 {
	u := math.Float32bits(f)
	return []uint32{u, u, u, u}
}

// finiteAVX2 looks at the exponents of 64 bytes at a time.
func finiteAVX2(e elem) {
	name := fmt.Sprintf("finite%vAVX2", e)
	TEXT(name, 8|4, "func(src *byte, steps int) int")
	Doc(name + " returns how many of the leading steps of 64 bytes, at least one in all, have neither a NaN nor an infinity.")
	Pragma("noescape")
	exponent, equal := allY(word(0x7f800000)), VPCMPEQD
	switch e {
	case bf16:
		exponent, equal = allY(word(0x7f807f80)), VPCMPEQW
	case f16:
		exponent, equal = allY(word(0x7c007c00)), VPCMPEQW
	}
	src := ptr("src")
	steps := Load(Param("steps"), GP64())
	done := GP64()
	XORQ(done, done)
	lower, upper := YMM(), YMM()
	Label("step")
	VPAND(src, exponent, lower)
	VPAND(src.Offset(32), exponent, upper)
	equal(exponent, lower, lower)
	equal(exponent, upper, upper)
	VPOR(lower, upper, lower)
	VPTEST(lower, lower)
	JNZ(LabelRef("end"))
	advance(src, 64)
	INCQ(done)
	CMPQ(done, steps)
	JNE(LabelRef("step"))
	Label("end")
	Store(done, ReturnIndex(0))
	VZEROUPPER()
	RET()
}
