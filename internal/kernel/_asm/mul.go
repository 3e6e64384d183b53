package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The shape of a tile; the Go side has the same numbers.
const (
	tileRows = 6
	tileCols = 16
)

// mulTileAVX2 holds the 6 rows of 16 sums in 12 registers. Steps of four are unrolled.
func mulTileAVX2() {
	const name = "mulTileAVX2"
	TEXT(name, 8|4, "func(c *float32, stride int, a, b *float32, k int)")
	Doc(name + " is mulTileGeneric.")
	Pragma("noescape")
	c, a, b := ptr("c"), ptr("a"), ptr("b")
	stride := Load(Param("stride"), GP64())
	SHLQ(Imm(2), stride)
	k := Load(Param("k"), GP64())
	var sum [tileRows][2]VecVirtual
	for i := range sum {
		for h := range 2 {
			sum[i][h] = YMM()
			VXORPS(sum[i][h], sum[i][h], sum[i][h])
		}
	}
	b0, b1, x := YMM(), YMM(), YMM()
	step := func(i int) {
		VMOVUPS(b.Offset(64*i), b0)
		VMOVUPS(b.Offset(64*i+32), b1)
		for r := range sum {
			VBROADCASTSS(a.Offset(4*tileRows*i+4*r), x)
			VFMADD231PS(b0, x, sum[r][0])
			VFMADD231PS(b1, x, sum[r][1])
		}
	}
	const unroll = 4
	many := GP64()
	MOVQ(k, many)
	SHRQ(Imm(2), many)
	JZ(LabelRef("rest"))
	loop("many", many, 1, func() {
		for i := range unroll {
			step(i)
		}
		advance(a, 4*tileRows*unroll)
		advance(b, 4*tileCols*unroll)
	})
	Label("rest")
	ANDQ(Imm(unroll-1), k)
	JZ(LabelRef("store"))
	loop("one", k, 1, func() {
		step(0)
		advance(a, 4*tileRows)
		advance(b, 4*tileCols)
	})
	Label("store")
	for r := range sum {
		for h := range 2 {
			VADDPS(c.Offset(32*h), sum[r][h], sum[r][h])
			VMOVUPS(sum[r][h], c.Offset(32*h))
		}
		ADDQ(stride, c.Base)
	}
	VZEROUPPER()
	RET()
}

// mulRowAVX2 is one row of a tile.
func mulRowAVX2() {
	const name = "mulRowAVX2"
	TEXT(name, 8|4, "func(c, a, b *float32, k int)")
	Doc(name + " is mulRowGeneric for at least one step.")
	Pragma("noescape")
	c, a, b := ptr("c"), ptr("a"), ptr("b")
	k := Load(Param("k"), GP64())
	s0, s1, x := YMM(), YMM(), YMM()
	VXORPS(s0, s0, s0)
	VXORPS(s1, s1, s1)
	loop("step", k, 1, func() {
		VBROADCASTSS(a, x)
		VFMADD231PS(b, x, s0)
		VFMADD231PS(b.Offset(32), x, s1)
		advance(a, 4)
		advance(b, 4*tileCols)
	})
	VADDPS(c, s0, s0)
	VADDPS(c.Offset(32), s1, s1)
	VMOVUPS(s0, c)
	VMOVUPS(s1, c.Offset(32))
	VZEROUPPER()
	RET()
}

// addScaledAVX2 has two multiplications on their way at a time: it waits for memory more than for them.
func addScaledAVX2() {
	const name = "addScaledAVX2"
	TEXT(name, 8|4, "func(dst, c *float32, by float32, x *float32, steps int)")
	Doc(name + " is addScaledGeneric for steps of 16 elements, at least one.")
	Pragma("noescape")
	dst, c, x := ptr("dst"), ptr("c"), ptr("x")
	by := broadcastParam("by")
	steps := Load(Param("steps"), GP64())
	lower, upper := YMM(), YMM()
	loop("step", steps, 1, func() {
		VMULPS(x, by, lower)
		VMULPS(x.Offset(32), by, upper)
		VADDPS(c, lower, lower)
		VADDPS(c.Offset(32), upper, upper)
		VMOVUPS(lower, dst)
		VMOVUPS(upper, dst.Offset(32))
		advance(c, 64)
		advance(x, 64)
		advance(dst, 64)
	})
	VZEROUPPER()
	RET()
}

// broadcastParam is a float32 argument in every place of a register.
func broadcastParam(name string) VecVirtual {
	at, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	r := YMM()
	VBROADCASTSS(at.Addr, r)
	return r
}
