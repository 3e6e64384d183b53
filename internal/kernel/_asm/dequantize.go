package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const dequantizeArgs = "func(dst *byte, codes *byte, absmax *float32, blocks, blockSize int, values *float32)"

// byteTables splits the 16 words of the float32 rows a and b into as many registers as a word has bytes in the target
// encoding, each with a byte of all 16 in both halves: what VPSHUFB looks codes up in.
func byteTables(e elem, a, b VecVirtual) []VecVirtual {
	if e == f32 {
		// Bytes 0 of all words, then bytes 1 and so on, four words at a time; then the fours are put together.
		transpose := allRows("transpose", 0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703)
		VPSHUFB(transpose, a, a)
		VPSHUFB(transpose, b, b)
		lo, hi := YMM(), YMM()
		order := YMM()
		VMOVDQU(words("dwordpairs", 0, 4, 1, 5, 2, 6, 3, 7), order)
		VPERMD(a, order, lo)
		VPERMD(b, order, hi)
		tables := make([]VecVirtual, 4)
		for i := range tables {
			tables[i] = YMM()
		}
		// lo holds byte 0 of codes 0-7, then byte 1, byte 2 and byte 3 of them, 8 bytes each; hi those of codes 8-15.
		t, u := YMM(), YMM()
		VPUNPCKLQDQ(hi, lo, t) // byte 0, byte 2
		VPUNPCKHQDQ(hi, lo, u) // byte 1, byte 3
		VPERM2I128(Imm(0x00), t, t, tables[0])
		VPERM2I128(Imm(0x11), t, t, tables[2])
		VPERM2I128(Imm(0x00), u, u, tables[1])
		VPERM2I128(Imm(0x11), u, u, tables[3])
		return tables
	}
	w := narrowAVX2(e, a, b)
	lo, hi := YMM(), YMM()
	VPAND(allRows("lowbytes", 0x00ff00ff, 0x00ff00ff, 0x00ff00ff, 0x00ff00ff), w, lo)
	VPSRLW(Imm(8), w, hi)
	VPACKUSWB(lo, lo, lo)
	VPACKUSWB(hi, hi, hi)
	VPERMQ(Imm(0x88), lo, lo)
	VPERMQ(Imm(0x88), hi, hi)
	return []VecVirtual{lo, hi}
}

// allRows returns 32 bytes, twice the 16 given.
func allRows(name string, v ...uint32) Mem { return words(name, append(v, v...)...) }

// narrowAVX2 rounds the float32 rows a and b to 16 words of a 16-bit encoding, in order. It overwrites a and b.
func narrowAVX2(e elem, a, b VecVirtual) VecVirtual {
	if e == f16 {
		VCVTPS2PH(Imm(0), a, a.AsX())
		VCVTPS2PH(Imm(0), b, b.AsX())
		VINSERTI128(Imm(1), b.AsX(), a, a)
		return a
	}
	for _, v := range []VecVirtual{a, b} {
		nan, quiet, odd := YMM(), YMM(), YMM()
		VCMPPS(Imm(3), v, v, nan) // unordered
		VPOR(allRows("quiet", 0x00400000, 0x00400000, 0x00400000, 0x00400000), v, quiet)
		VPSRLD(Imm(16), v, odd)
		VPAND(allRows("lowest", 1, 1, 1, 1), odd, odd)
		VPADDD(odd, v, v)
		VPADDD(allRows("half", 0x7fff, 0x7fff, 0x7fff, 0x7fff), v, v)
		VBLENDVPS(nan, quiet, v, v)
		VPSRLD(Imm(16), v, v)
	}
	VPACKUSDW(b, a, a)
	VPERMQ(Imm(0xd8), a, a)
	return a
}

// codesToIndex loads 16 bytes of codes in the order of shuffle and returns the 32 nibbles, a byte each. Unpacking works in
// halves of a register, so shuffle puts into the lower half what comes out of unpacking as the lower halves of the rows.
func codesToIndex(codes, shuffle Mem) VecVirtual {
	x, y, t := XMM(), YMM(), YMM()
	VMOVDQU(codes, x)
	VPSHUFB(shuffle, x, x)
	VPMOVZXBW(x, y)
	VPSRLW(Imm(4), y, t)
	VPSLLW(Imm(8), y, y)
	VPOR(t, y, y)
	VPAND(allRows("nibbles32", 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f), y, y)
	return y
}

// lookUp returns the values of the nibbles in idx, unpacked from their bytes: two rows of words or four of dwords.
func lookUp(tables []VecVirtual, idx VecVirtual) []VecVirtual {
	var b []VecVirtual
	for _, t := range tables {
		r := YMM()
		VPSHUFB(idx, t, r)
		b = append(b, r)
	}
	w0, w1 := YMM(), YMM()
	VPUNPCKLBW(b[1], b[0], w0)
	VPUNPCKHBW(b[1], b[0], w1)
	if len(b) == 2 {
		return []VecVirtual{w0, w1}
	}
	w2, w3 := b[0], b[1]
	VPUNPCKLBW(b[3], b[2], w2)
	VPUNPCKHBW(b[3], b[2], w3)
	d0, d1, d2, d3 := YMM(), YMM(), YMM(), YMM()
	VPUNPCKLWD(w2, w0, d0)
	VPUNPCKHWD(w2, w0, d1)
	VPUNPCKLWD(w3, w1, d2)
	VPUNPCKHWD(w3, w1, d3)
	return []VecVirtual{d0, d1, d2, d3}
}

// dequantizeAVX2 rounds the 16 possible values of a block once and then looks them up a byte at a time.
func dequantizeAVX2(e elem) {
	name := fmt.Sprintf("dequantize%vAVX2", e)
	TEXT(name, 8|4, dequantizeArgs)
	Doc(name + " is dequantizeGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	dst, codes, absmax, values := ptr("dst"), ptr("codes"), ptr("absmax"), ptr("values")
	v0, v1 := YMM(), YMM()
	VMOVUPS(values, v0)
	VMOVUPS(values.Offset(32), v1)
	shuffle := words("halves2", 0x03020100, 0x0b0a0908, 0x07060504, 0x0f0e0d0c)
	if e == f32 {
		shuffle = words("halves4", 0x05040100, 0x0d0c0908, 0x07060302, 0x0f0e0b0a)
	}
	blocks(func(size GPVirtual) {
		s, a, b := YMM(), YMM(), YMM()
		VBROADCASTSS(absmax, s)
		VMULPS(s, v0, a)
		VMULPS(s, v1, b)
		advance(absmax, 4)
		tables := byteTables(e, a, b)
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			for i, row := range lookUp(tables, codesToIndex(codes, shuffle)) {
				VMOVDQU(row, dst.Offset(32*i))
			}
			advance(codes, 16)
			advance(dst, 32*e.size())
		})
	})
}

// narrowAVX512 rounds 16 float32 values to words. It overwrites v.
func narrowAVX512(e elem, v VecVirtual) VecVirtual {
	r := YMM()
	if e == f16 {
		VCVTPS2PH(Imm(0), v, r)
		return r
	}
	nan, sum := K(), ZMM()
	VCMPPS(Imm(3), v, v, nan) // unordered
	VPSRLD(Imm(16), v, sum)
	VPANDD(broadcast(1), sum, sum)
	VPADDD(v, sum, sum)
	VPADDD(broadcast(0x7fff), sum, sum)
	VPORD(broadcast(0x00400000), v, nan, sum)
	VPSRLD(Imm(16), sum, sum)
	VPMOVDW(sum, r)
	return r
}

// broadcast returns 64 bytes of the same 32-bit word in memory.
func broadcast(u uint32) Mem {
	row := make([]uint32, 16)
	for i := range row {
		row[i] = u
	}
	return words(fmt.Sprintf("all%08x", u), row...)
}

// dequantizeAVX512 rounds the 16 possible values of a block once and then looks them up with one permutation a row. For
// words the permutation takes 5 bits of a place, of which the table ignores the highest.
func dequantizeAVX512(e elem) {
	name := fmt.Sprintf("dequantize%vAVX512", e)
	TEXT(name, 8|4, dequantizeArgs)
	Doc(name + " is dequantizeGeneric for full blocks of a multiple of 32 elements.")
	Pragma("noescape")
	dst, codes, absmax, values := ptr("dst"), ptr("codes"), ptr("absmax"), ptr("values")
	v := ZMM()
	VMOVUPS(values, v)
	blocks(func(size GPVirtual) {
		table := ZMM()
		VBROADCASTSS(absmax, table)
		VMULPS(v, table, table)
		advance(absmax, 4)
		if e != f32 {
			w := narrowAVX512(e, table)
			VINSERTI64X4(Imm(1), w, w.AsZ(), table)
		}
		left := GP64()
		MOVQ(size, left)
		loop("step", left, 32, func() {
			idx, t := ZMM(), ZMM()
			if e == f32 {
				for i := range 2 {
					VPMOVZXBQ(codes.Offset(8*i), idx)
					VPSRLQ(Imm(4), idx, t)
					VPSLLQ(Imm(32), idx, idx)
					VPORD(t, idx, idx)
					VPERMPS(table, idx, t)
					VMOVUPS(t, dst.Offset(64*i))
				}
			} else {
				VPMOVZXBD(codes, idx)
				VPSRLD(Imm(4), idx, t)
				VPSLLD(Imm(16), idx, idx)
				VPORD(t, idx, idx)
				VPERMW(table, idx, t)
				VMOVDQU32(t, dst)
			}
			advance(codes, 16)
			advance(dst, 32*e.size())
		})
	})
}
