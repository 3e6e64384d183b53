package main

// A search for the rank of a value among the 15 thresholds of a code goes down a tree of four levels, whose nodes lie as those
// of a heap do: node n has its children at 2n and 2n+1. A table of 16 float32 values is 64 bytes, which VTBL reads by byte numbers,
// so a node is held as the numbers of its four bytes, 4n to 4n+3, in the place of the element:
//
//	bytes of node n             4n        4n+1      4n+2      4n+3
//	twice that, less 0 1 2 3    8n        8n+1      8n+2      8n+3        of node 2n
//	and 4 where v > threshold   8n+4      8n+5      8n+6      8n+7        of node 2n+1
//
// Below the last level are nodes 16 to 31, less 16 the ranks 0 to 15, by which the values lie in another such table.
const (
	nodeBytes  = 28 // 0 1 2 3 in every element
	leafBytes  = 29 // 64 65 66 67
	childBytes = 30 // 4 4 4 4
	root       = 31 // the first level's threshold
	tree       = 16 // and three more: the thresholds
	ranked     = 20 // and three more: the values by rank
)

// searchTables loads the table at the register, and sets up V16 to V23 and V28 to V31.
func (g *generator) searchTables(table string) {
	g.op("VLD1.P 64(%s), [V16.B16, V17.B16, V18.B16, V19.B16]", table)
	g.op("VLD1.P 64(%s), [V20.B16, V21.B16, V22.B16, V23.B16]", table)
	g.all(0x03020100, nodeBytes)
	g.all(0x43424140, leafBytes)
	g.all(0x04040404, childBytes)
	g.op("VDUP V16.S[1], V%d.S4", root)
}

// search leaves in V(p) the byte numbers of the value that is next to V(v), by rank. It uses V(t).
func (g *generator) search(v, p, t int) {
	g.word3(fcmgtS4, p, v, root)
	g.op("VAND V%d.B16, V%d.B16, V%d.B16", childBytes, p, p)
	// Of the root, 4 5 6 7, the double less 0 1 2 3 is 8 9 10 11.
	g.op("VADD V%d.B16, V%d.B16, V%d.B16", childBytes, p, p)
	g.op("VADD V%d.B16, V%d.B16, V%d.B16", childBytes, p, p)
	g.op("VADD V%d.B16, V%d.B16, V%d.B16", nodeBytes, p, p)
	for level := 2; level <= 4; level++ {
		g.op("VTBL V%d.B16, [V%d.B16, V%d.B16, V%d.B16, V%d.B16], V%d.B16", p, tree, tree+1, tree+2, tree+3, t)
		g.word3(fcmgtS4, t, v, t)
		g.op("VAND V%d.B16, V%d.B16, V%d.B16", childBytes, t, t)
		g.op("VADD V%d.B16, V%d.B16, V%d.B16", p, p, p)
		less := nodeBytes
		if level == 4 {
			less = leafBytes
		}
		g.op("VSUB V%d.B16, V%d.B16, V%d.B16", less, p, p)
		g.op("VADD V%d.B16, V%d.B16, V%d.B16", t, p, p)
	}
}

// value looks the value up in V(d) that the byte numbers in V(p) are of.
func (g *generator) value(d, p int) {
	g.op("VTBL V%d.B16, [V%d.B16, V%d.B16, V%d.B16, V%d.B16], V%d.B16", p, ranked, ranked+1, ranked+2, ranked+3, d)
}

// gridFit has the sums of values in V0 to V3, those of squares in V4 to V7.
func (g *generator) gridFit() {
	g.begin("gridFitNEON", "is gridFitGeneric for steps of 16 elements, at least one, and at least one candidate.", 0,
		arg{"wq", "*float32"}, arg{"qq", "*float32"}, arg{"x", "*float32"}, arg{"hx", "*float32"}, arg{"h", "*float32"}, arg{"steps", "int"},
		arg{"inv", "*float32"}, arg{"candidates", "int"}, arg{"t", "*float32"})
	g.searchTables("R8")
	g.loop("candidate", "R7", 1, func() {
		g.op("VLD1R.P 4(R6), [V27.S4]")
		for v := range 8 {
			g.op("VEOR V%d.B16, V%d.B16, V%d.B16", v, v, v)
		}
		g.op("MOVD R2, R10")
		g.op("MOVD R3, R11")
		g.op("MOVD R4, R12")
		g.op("MOVD R5, R13")
		g.loop("step", "R13", 1, func() {
			for q := range 4 {
				g.op("VLD1.P 16(R10), [V8.S4]")
				g.op("VLD1.P 16(R11), [V12.S4]")
				g.op("VLD1.P 16(R12), [V13.S4]")
				g.word3(fmulS4, 8, 8, 27)
				g.search(8, 9, 10)
				g.value(8, 9)
				g.word3(fmulS4, 12, 12, 8)
				g.word3(faddS4, q, q, 12)
				g.word3(fmulS4, 13, 13, 8)
				g.word3(fmulS4, 13, 13, 8)
				g.word3(faddS4, 4+q, 4+q, 13)
			}
		})
		for i, to := range []string{"R0", "R1"} {
			s := 4 * i
			g.word3(faddS4, s, s, s+2)
			g.word3(faddS4, s+1, s+1, s+3)
			g.word3(faddS4, s, s, s+1)
			g.op("VEXT $8, V%d.B16, V%d.B16, V8.B16", s, s)
			g.word3(faddS4, s, s, 8)
			g.word2(faddpS2, s, s)
			g.op("FMOVS.P F%d, 4(%s)", s, to)
		}
	})
	g.op("RET")
}

// nearest takes four elements at a time, each with its own scale, and packs the codes of sixteen.
func (g *generator) nearest() {
	g.begin("nearestNEON", "is nearestGeneric for steps of 16 elements, at least one.", 0,
		arg{"codes", "*byte"}, arg{"values", "*float32"}, arg{"x", "*float32"}, arg{"scales", "*float32"}, arg{"steps", "int"}, arg{"t", "*float32"})
	g.searchTables("R5")
	g.op("VLD1 (R5), [V24.B16]") // codes by rank
	g.all(0x02081cea, 25)        // 1e-37
	g.all(0x3f800000, 26)
	g.loop("step", "R4", 1, func() {
		for q := range 4 {
			g.op("VLD1.P 16(R3), [V8.S4]")
			g.op("VLD1.P 16(R2), [V9.S4]")
			g.word2(fabsS4, 10, 8)
			g.word3(fcmgeS4, 10, 10, 25)
			g.word3(fdivS4, 11, 26, 8)
			g.op("VAND V10.B16, V11.B16, V11.B16")
			g.word3(fmulS4, 9, 9, 11)
			g.search(9, q, 10)
			g.value(9, q)
			g.word3(fmulS4, 9, 9, 8)
			g.op("VST1.P [V9.S4], 16(R1)")
		}
		g.pair("VUZP1", "H8", 0, 0, 1)
		g.pair("VUZP1", "H8", 2, 2, 3)
		g.pair("VUZP1", "B16", 0, 0, 2)
		g.op("VUSHR $2, V0.B16, V0.B16")
		g.op("VTBL V0.B16, [V24.B16], V0.B16")
		g.op("VST1.P [V0.B16], 16(R0)")
	})
	g.op("RET")
}
