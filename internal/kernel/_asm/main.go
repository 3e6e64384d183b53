// Command asm writes the amd64 kernels.
//
//	go run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel
//
// Every kernel does whole blocks (or whole steps of 32 or 16 elements), at least one, and equals the generic function its
// documentation names, bit for bit. Lengths are the Go side's to check; the assembly trusts them.
//
// There are AVX-512 kernels for what computes the most. The others are bound by memory and gain nothing over AVX2.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	for _, e := range []elem{f32, bf16, f16} {
		absmaxAVX2(e)
		for _, fp4 := range []bool{false, true} {
			codesAVX2(e, fp4)
			codesAVX512(e, fp4)
		}
		dequantizeAVX2(e)
		dequantizeAVX512(e)
		errorSumsAVX2(e)
		errorSumsAVX512(e)
	}
	for _, from := range []elem{f32, bf16, f16, e4m3, e5m2} {
		for _, to := range []elem{f32, bf16, f16} {
			if from != to {
				convertAVX2(from, to)
			}
		}
	}
	for _, e := range []elem{f32, bf16, f16} {
		finiteAVX2(e)
	}
	dynamicQuantizeAVX2()
	dynamicDequantizeAVX2()
	pairSumsAVX2()
	pairSumsAVX512()
	deltaSumsAVX2()
	e2m1AVX2()
	gridFitAVX2()
	nearestAVX2()
	mulTileAVX2()
	mulRowAVX2()
	addScaledAVX2()
	Generate()
}

// elem is an element encoding.
type elem int

const (
	f32 elem = iota
	bf16
	f16
	e4m3
	e5m2
)

func (e elem) String() string { return [...]string{"F32", "BF16", "F16", "E4M3", "E5M2"}[e] }

func (e elem) size() int { return [...]int{4, 2, 2, 1, 1}[e] }

// typeName is the part of a kernel's name that says which codes it makes.
func typeName(fp4 bool) string {
	if fp4 {
		return "FP4"
	}
	return "NF4"
}

// constants holds the read-only 32-bit words and 16-byte rows already emitted, by name.
var constants = map[string]Mem{}

// word returns a 32-bit constant in memory, to be broadcast.
func word(u uint32) Mem {
	name := fmt.Sprintf("word%08x", u)
	m, ok := constants[name]
	if !ok {
		m = GLOBL(name, 8|16) // RODATA|NOPTR
		DATA(0, U32(u))
		constants[name] = m
	}
	return m
}

// float returns a float32 constant in memory, to be broadcast.
func float(f float32) Mem { return word(math.Float32bits(f)) }

// words returns a row of 32-bit constants.
func words(name string, v ...uint32) Mem {
	m, ok := constants[name]
	if !ok {
		m = GLOBL(name, 8|16)
		for i, u := range v {
			DATA(4*i, U32(u))
		}
		constants[name] = m
	}
	return m
}

func halfwords(name string, v ...uint16) Mem {
	w := make([]uint32, len(v)/2)
	for i := range w {
		w[i] = uint32(v[2*i]) | uint32(v[2*i+1])<<16
	}
	return words(name, w...)
}

// allY and allZ return a register with a 32-bit constant in every place.
func allY(m Mem) VecVirtual {
	r := YMM()
	VPBROADCASTD(m, r)
	return r
}

func allZ(m Mem) VecVirtual {
	r := ZMM()
	VPBROADCASTD(m, r)
	return r
}

// ptr loads a pointer argument.
func ptr(name string) Mem { return Mem{Base: Load(Param(name), GP64())} }

// advance moves a pointer on.
func advance(m Mem, by int) { ADDQ(I32(int32(by)), m.Base) }

// loop repeats body while the counter, less step each time, is above 0. It runs at least once.
func loop(label string, counter Register, step int, body func()) {
	Label(label)
	body()
	SUBQ(I32(int32(step)), counter)
	JNZ(LabelRef(label))
}

// blocks repeats body for every block and ends the kernel. There is at least one block.
func blocks(body func(size GPVirtual)) {
	n := Load(Param("blocks"), GP64())
	size := GP64()
	Load(Param("blockSize"), size)
	loop("block", n, 1, func() { body(size) })
	VZEROUPPER()
	RET()
}
