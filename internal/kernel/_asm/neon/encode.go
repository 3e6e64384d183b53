package main

import "fmt"

// The instructions that Go's assembler lacks, as the Arm Architecture Reference Manual encodes them (C7.2). The low bits
// hold the destination, bits 5 to 9 the first and 16 to 20 the second source. Operands here are in the manual's order.
const (
	fmulS4   = 0x6e20dc00 // FMUL   Vd.4S, Vn.4S, Vm.4S
	fmulD2   = 0x6e60dc00 // FMUL   Vd.2D, Vn.2D, Vm.2D
	faddS4   = 0x4e20d400 // FADD   Vd.4S, Vn.4S, Vm.4S
	faddD2   = 0x4e60d400 // FADD   Vd.2D, Vn.2D, Vm.2D
	fsubD2   = 0x4ee0d400 // FSUB   Vd.2D, Vn.2D, Vm.2D
	fdivS4   = 0x6e20fc00 // FDIV   Vd.4S, Vn.4S, Vm.4S
	faddpS2  = 0x7e30d800 // FADDP  Sd, Vn.2S
	fcmgeS4  = 0x6e20e400 // FCMGE  Vd.4S, Vn.4S, Vm.4S
	fcmgtS4  = 0x6ea0e400 // FCMGT  Vd.4S, Vn.4S, Vm.4S
	fcmeqS4  = 0x4e20e400 // FCMEQ  Vd.4S, Vn.4S, Vm.4S
	fmaxnmD2 = 0x4e60c400 // FMAXNM Vd.2D, Vn.2D, Vm.2D
	fmaxnmS4 = 0x4e20c400 // FMAXNM Vd.4S, Vn.4S, Vm.4S
	fminnmS4 = 0x4ea0c400 // FMINNM Vd.4S, Vn.4S, Vm.4S
	fabsS4   = 0x4ea0f800 // FABS   Vd.4S, Vn.4S
	fabsD2   = 0x4ee0f800 // FABS   Vd.2D, Vn.2D
	fcvtlS   = 0x0e217800 // FCVTL  Vd.4S, Vn.4H
	fcvtl2S  = 0x4e217800 // FCVTL2 Vd.4S, Vn.8H
	fcvtlD   = 0x0e617800 // FCVTL  Vd.2D, Vn.2S
	fcvtnH   = 0x0e216800 // FCVTN  Vd.4H, Vn.4S
	fcvtn2H  = 0x4e216800 // FCVTN2 Vd.8H, Vn.4S
	shrn16   = 0x0f108400 // SHRN   Vd.4H, Vn.4S, #16
	shrn216  = 0x4f108400 // SHRN2  Vd.8H, Vn.4S, #16
	umaxvH8  = 0x6e70a800 // UMAXV  Hd, Vn.8H
	umaxvS4  = 0x6eb0a800 // UMAXV  Sd, Vn.4S
	fmlaS4   = 0x4f801000 // FMLA   Vd.4S, Vn.4S, Vm.S[index], whose index is in bits 11 and 21
)

var mnemonics = map[uint32]string{
	faddS4: "FADD V%d.4S, V%d.4S, V%d.4S", fmulS4: "FMUL V%d.4S, V%d.4S, V%d.4S", fmulD2: "FMUL V%d.2D, V%d.2D, V%d.2D", faddD2: "FADD V%d.2D, V%d.2D, V%d.2D",
	fsubD2: "FSUB V%d.2D, V%d.2D, V%d.2D", fcmgtS4: "FCMGT V%d.4S, V%d.4S, V%d.4S", fcmeqS4: "FCMEQ V%d.4S, V%d.4S, V%d.4S",
	fmaxnmD2: "FMAXNM V%d.2D, V%d.2D, V%d.2D", fmaxnmS4: "FMAXNM V%d.4S, V%d.4S, V%d.4S", fminnmS4: "FMINNM V%d.4S, V%d.4S, V%d.4S",
	fdivS4: "FDIV V%d.4S, V%d.4S, V%d.4S", faddpS2: "FADDP S%d, V%d.2S", fcmgeS4: "FCMGE V%d.4S, V%d.4S, V%d.4S", fabsS4: "FABS V%d.4S, V%d.4S",
	fabsD2: "FABS V%d.2D, V%d.2D", fcvtlS: "FCVTL V%d.4S, V%d.4H", fcvtl2S: "FCVTL2 V%d.4S, V%d.8H", fcvtlD: "FCVTL V%d.2D, V%d.2S",
	fcvtnH: "FCVTN V%d.4H, V%d.4S", fcvtn2H: "FCVTN2 V%d.8H, V%d.4S", shrn16: "SHRN V%d.4H, V%d.4S, #16",
	shrn216: "SHRN2 V%d.8H, V%d.4S, #16", umaxvH8: "UMAXV H%d, V%d.8H", umaxvS4: "UMAXV S%d, V%d.4S",
}

// word3 writes an instruction with two sources, word2 one with one.
func (g *generator) word3(code uint32, d, n, m int) {
	g.op("WORD $0x%08x // "+fmt.Sprintf(mnemonics[code], d, n, m), code|uint32(m)<<16|uint32(n)<<5|uint32(d))
}

func (g *generator) word2(code uint32, d, n int) {
	g.op("WORD $0x%08x // "+fmt.Sprintf(mnemonics[code], d, n), code|uint32(n)<<5|uint32(d))
}

// fmlaElement adds to V(d) the product of V(n) and one element of V(m).
func (g *generator) fmlaElement(d, n, m, index int) {
	code := uint32(fmlaS4 | index>>1<<11 | index&1<<21 | m<<16 | n<<5 | d)
	g.op("WORD $0x%08x // FMLA V%d.4S, V%d.4S, V%d.S[%d]", code, d, n, m, index)
}
