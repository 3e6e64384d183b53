package main

// The shape of a tile; the Go side has the same numbers.
const (
	tileRows = 6
	tileCols = 16
)

// mulTile holds the 6 rows of 16 sums in V0 to V23, four registers a row, and a row of b in V24 to V27. Two columns of a are 12
// elements, in V28 to V30; each is multiplied from its place there:
//
//	V28  a0 a1 a2 a3    V29  a4 a5 b0 b1    V30  b2 b3 b4 b5
func (g *generator) mulTile() {
	g.begin("mulTileNEON", "is mulTileGeneric for at least one step.", 0, arg{"c", "*float32"}, arg{"stride", "int"}, arg{"a", "*float32"}, arg{"b", "*float32"}, arg{"k", "int"})
	g.op("LSL $2, R1, R1")
	for v := range 4 * tileRows {
		g.op("VEOR V%d.B16, V%d.B16, V%d.B16", v, v, v)
	}
	// step multiplies a row of b by the elements of a column, the first of which is that many after the start of V28.
	step := func(first int) {
		g.op("VLD1.P 64(R3), [V24.S4, V25.S4, V26.S4, V27.S4]")
		for r := range tileRows {
			at := first + r
			for q := range 4 {
				g.fmlaElement(4*r+q, 24+q, 28+at/4, at%4)
			}
		}
	}
	g.op("LSR $1, R4, R5")
	g.op("CBZ R5, rest")
	g.loop("two", "R5", 1, func() {
		g.op("VLD1.P 48(R2), [V28.S4, V29.S4, V30.S4]")
		step(0)
		step(tileRows)
	})
	g.op("\nrest:")
	g.op("TBZ $0, R4, store")
	g.op("VLD1.P 16(R2), [V28.S4]")
	g.op("VLD1 (R2), [V29.S2]")
	step(0)
	g.op("\nstore:")
	for r := range tileRows {
		g.op("VLD1 (R0), [V24.S4, V25.S4, V26.S4, V27.S4]")
		for q := range 4 {
			g.word3(faddS4, 24+q, 24+q, 4*r+q)
		}
		g.op("VST1 [V24.S4, V25.S4, V26.S4, V27.S4], (R0)")
		g.op("ADD R1, R0, R0")
	}
	g.op("RET")
}

// mulRow is one row of a tile.
func (g *generator) mulRow() {
	g.begin("mulRowNEON", "is mulRowGeneric for at least one step.", 0, arg{"c", "*float32"}, arg{"a", "*float32"}, arg{"b", "*float32"}, arg{"k", "int"})
	for v := range 4 {
		g.op("VEOR V%d.B16, V%d.B16, V%d.B16", v, v, v)
	}
	g.loop("step", "R3", 1, func() {
		g.op("VLD1R.P 4(R1), [V28.S4]")
		g.op("VLD1.P 64(R2), [V24.S4, V25.S4, V26.S4, V27.S4]")
		for q := range 4 {
			g.op("VFMLA V28.S4, V%d.S4, V%d.S4", 24+q, q)
		}
	})
	g.op("VLD1 (R0), [V24.S4, V25.S4, V26.S4, V27.S4]")
	for q := range 4 {
		g.word3(faddS4, 24+q, 24+q, q)
	}
	g.op("VST1 [V24.S4, V25.S4, V26.S4, V27.S4], (R0)")
	g.op("RET")
}

// addScaled gets the bits of its factor.
func (g *generator) addScaled() {
	g.begin("addScaledNEON", "is addScaledGeneric for steps of 16 elements, at least one.", 0,
		arg{"dst", "*float32"}, arg{"c", "*float32"}, arg{"by", "uint64"}, arg{"x", "*float32"}, arg{"steps", "int"})
	g.op("VDUP R2, V16.S4")
	g.loop("step", "R4", 1, func() {
		g.op("VLD1.P 64(R3), [V0.S4, V1.S4, V2.S4, V3.S4]")
		g.op("VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]")
		for q := range 4 {
			g.word3(fmulS4, q, q, 16)
			g.word3(faddS4, q, 4+q, q)
		}
		g.op("VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)")
	})
	g.op("RET")
}
