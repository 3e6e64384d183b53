package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// reciprocal returns 1/max(absmax, 1e-38) in the lowest place of a register.
func reciprocal(absmax Mem) VecVirtual {
	a, one := XMM(), XMM()
	VMOVD(absmax, a)
	VPMAXUD(constantRow("minscale", minScale), a, a)
	VMOVSS(float(1), one)
	VDIVSS(a, one, a)
	return a
}

const minScale = 0x006ce3ee

// constantRow returns 16 bytes of the same 32-bit word.
func constantRow(name string, u uint32) Mem { return words(name, u, u, u, u) }

// codesAVX2 searches by bisection, four comparisons a value. The thresholds of a level lie in one register, which a
// permutation indexes by the outcomes so far. A comparison gives 0 or -1, so after each level s = 2s + outcome holds the
// bits found, negated; the tables are laid out for that. In the end -s is the rank.
//
// The even elements, which go to the high nibbles, and the odd ones are searched apart and joined by 16s + s'.
func codesAVX2(e elem, fp4 bool) {
	name := fmt.Sprintf("codes%s%vAVX2", typeName(fp4), e)
	TEXT(name, 8|4, "func(codes *byte, absmax *float32, src *byte, blocks, blockSize int, t *float32)")
	Doc(name + " is codesGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	out, absmax, src, table := ptr("codes"), ptr("absmax"), ptr("src"), ptr("t")
	var level [4]VecVirtual
	for i := range level {
		level[i] = YMM()
		VMOVUPS(table.Offset(32*i), level[i])
	}
	var high VecVirtual
	if e == bf16 {
		high = allY(word(0xffff0000))
	}
	search := func(v VecVirtual) VecVirtual {
		s, t := YMM(), YMM()
		VCMPPS(Imm(gt), level[0], v, s)
		VPERMILPS(s, level[1], t)
		VCMPPS(Imm(gt), t, v, t)
		VPADDD(s, s, s)
		VPADDD(t, s, s)
		VPERMILPS(s, level[2], t)
		VCMPPS(Imm(gt), t, v, t)
		VPADDD(s, s, s)
		VPADDD(t, s, s)
		VPERMPS(level[3], s, t)
		VCMPPS(Imm(gt), t, v, t)
		VPADDD(s, s, s)
		VPADDD(t, s, s)
		return s
	}
	blocks(func(size GPVirtual) {
		inv := YMM()
		VBROADCASTSS(reciprocal(absmax), inv)
		advance(absmax, 4)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			var joined [2]VecVirtual
			for i := range joined {
				even, odd := deinterleaveAVX2(e, src.Offset(16*i*e.size()), high)
				VMULPS(inv, even, even)
				VMULPS(inv, odd, odd)
				s, r := search(even), search(odd)
				VPSLLD(Imm(4), s, s)
				VPADDD(r, s, s)
				VPABSD(s, s)
				joined[i] = s
			}
			advance(src, 32*e.size())
			b := joined[0]
			VPACKUSDW(joined[1], b, b)
			VPACKUSWB(b, b, b)
			upper := XMM()
			VEXTRACTI128(Imm(1), b, upper)
			x := b.AsX()
			VPUNPCKLDQ(upper, x, x)
			if e == f32 || e == f16 {
				VPSHUFB(shuffledPairs(), x, x)
			}
			if fp4 {
				x = ranksToCodes(x, table.Offset(128))
			}
			VMOVDQU(x, out)
			advance(out, 16)
		})
	})
}

const gt = 0x1e // VCMPPS: first operand greater, false for NaN, quiet

// deinterleaveAVX2 loads 16 elements and returns the even and the odd ones as float32. For f32 and f16 the pairs are in
// the order 0 1 4 5 2 3 6 7, which shuffledPairs undoes when the codes are packed.
func deinterleaveAVX2(e elem, src Mem, high VecVirtual) (even, odd VecVirtual) {
	even, odd = YMM(), YMM()
	if e == bf16 {
		v := YMM()
		VMOVDQU(src, v)
		VPSLLD(Imm(16), v, even)
		VPAND(high, v, odd)
		return even, odd
	}
	a, b := YMM(), YMM()
	if e == f32 {
		VMOVUPS(src, a)
		VMOVUPS(src.Offset(32), b)
	} else {
		VCVTPH2PS(src, a)
		VCVTPH2PS(src.Offset(16), b)
	}
	VSHUFPS(Imm(0x88), b, a, even)
	VSHUFPS(Imm(0xdd), b, a, odd)
	return even, odd
}

// shuffledPairs indexes bytes 0 to 15 so that pairs loaded by deinterleaveAVX2 come out in order.
func shuffledPairs() Mem {
	return words("pairs", 0x05040100, 0x07060302, 0x0d0c0908, 0x0f0e0b0a)
}

// ranksToCodes maps both nibbles of 16 bytes; at table are the 16 codes shifted to the high nibble, then as they are.
func ranksToCodes(x Register, table Mem) VecVirtual {
	mask, hi, lo, t := XMM(), XMM(), XMM(), XMM()
	VMOVDQU(constantRow("nibbles", 0x0f0f0f0f), mask)
	VPAND(mask, x, lo)
	VPSRLW(Imm(4), x, hi)
	VPAND(mask, hi, hi)
	VMOVDQU(table, t)
	VPSHUFB(hi, t, hi)
	VMOVDQU(table.Offset(16), t)
	VPSHUFB(lo, t, lo)
	VPOR(hi, lo, lo)
	return lo
}

// codesAVX512 searches as book.search does, with cells so wide that 32 are enough: a multiplication and an addition that
// rounds to an integer give the cell in the low bits, one permutation looks up the one threshold in the cell, another
// the rank below it. FP4 has three thresholds in its middle cell; the outer two are compared with separately.
//
// VRANGEPS with the smaller magnitude and the sign of the first operand is the clamp to [-1, 1].
func codesAVX512(e elem, fp4 bool) {
	name := fmt.Sprintf("codes%s%vAVX512", typeName(fp4), e)
	TEXT(name, 8|4, "func(codes *byte, absmax *float32, src *byte, blocks, blockSize int, t *float32)")
	Doc(name + " is codesGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	out, absmax, src, table := ptr("codes"), ptr("absmax"), ptr("src"), ptr("t")
	row := func(offset int) VecVirtual {
		r := ZMM()
		VMOVUPS(table.Offset(offset), r)
		return r
	}
	t0, t1 := row(0), row(64)
	even0, even1, odd0, odd1 := row(128), row(192), row(256), row(320)
	one, mul, add := allZ(float(1)), allZ(float(cellScale)), allZ(float(cellBias))
	stepEven, stepOdd := allZ(word(16)), allZ(word(1))
	var high, low, codeEven, codeOdd VecVirtual
	if fp4 {
		low, high = row(512), row(576)
		codeEven, codeOdd = row(384), row(448)
	}
	ld := newLoader512(e)
	search := func(v, inv, base0, base1, step, code VecVirtual) VecVirtual {
		cell, rank := ZMM(), ZMM()
		k := K()
		VMULPS(inv, v, v)
		VRANGEPS(Imm(2), one, v, v)
		VMOVAPS(mul, cell)
		VFMADD213PS(add, v, cell)
		VMOVDQA32(cell, rank)
		VPERMI2PS(t1, t0, cell)
		VPERMI2D(base1, base0, rank)
		VCMPPS(Imm(gt), cell, v, k)
		VPADDD(step, rank, k, rank)
		if !fp4 {
			return rank
		}
		for _, t := range []VecVirtual{low, high} {
			k := K()
			VCMPPS(Imm(gt), t, v, k)
			VPADDD(step, rank, k, rank)
		}
		VPERMD(code, rank, rank)
		return rank
	}
	blocks(func(size GPVirtual) {
		inv := ZMM()
		VBROADCASTSS(reciprocal(absmax), inv)
		advance(absmax, 4)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			even, odd := ld.deinterleave(src)
			var s, r VecVirtual
			if fp4 {
				s = search(even, inv, odd0, odd1, stepOdd, codeEven)
				r = search(odd, inv, odd0, odd1, stepOdd, codeOdd)
			} else {
				s = search(even, inv, even0, even1, stepEven, nil)
				r = search(odd, inv, odd0, odd1, stepOdd, nil)
			}
			VPORD(r, s, s)
			VPMOVDB(s, out)
			advance(src, 32*e.size())
			advance(out, 16)
		})
	})
}

// cellScale and cellBias take [-1, 1] to cells 1 to 31: 1.5*2^23 + 16 makes the sum an integer in its low bits. The Go
// side fills the tables with the same two numbers (tables_amd64.go).
const (
	cellScale = 15.4
	cellBias  = 12582912 + 16
)

// loader512 loads 32 elements and returns the even and the odd ones, in order.
type loader512 struct {
	e        elem
	high     VecVirtual // bf16: mask of the odd halves
	split    VecVirtual // f16: permutation of the words to even, then odd
	idx, jdx VecVirtual // f32: permutations of two registers
}

func newLoader512(e elem) *loader512 {
	l := &loader512{e: e}
	switch e {
	case bf16:
		l.high = allZ(word(0xffff0000))
	case f16:
		var w [32]uint16
		for i := range 16 {
			w[i], w[16+i] = uint16(2*i), uint16(2*i+1)
		}
		l.split = ZMM()
		VMOVDQU32(halfwords("split16", w[:]...), l.split)
	case f32:
		var even, odd [16]uint32
		for i := range 16 {
			even[i], odd[i] = uint32(2*i), uint32(2*i+1)
		}
		l.idx, l.jdx = ZMM(), ZMM()
		VMOVDQU32(words("even32", even[:]...), l.idx)
		VMOVDQU32(words("odd32", odd[:]...), l.jdx)
	}
	return l
}

func (l *loader512) deinterleave(src Mem) (even, odd VecVirtual) {
	even, odd = ZMM(), ZMM()
	switch l.e {
	case bf16:
		v := ZMM()
		VMOVDQU32(src, v)
		VPSLLD(Imm(16), v, even)
		VPANDD(l.high, v, odd)
	case f16:
		v, upper := ZMM(), YMM()
		VPERMW(src, l.split, v)
		VEXTRACTI64X4(Imm(1), v, upper)
		VCVTPH2PS(v.AsY(), even)
		VCVTPH2PS(upper, odd)
	case f32:
		v, w := ZMM(), ZMM()
		VMOVUPS(src, v)
		VMOVUPS(src.Offset(64), w)
		VMOVDQA32(l.idx, even)
		VMOVDQA32(l.jdx, odd)
		VPERMI2PS(w, v, even)
		VPERMI2PS(w, v, odd)
	}
	return even, odd
}
