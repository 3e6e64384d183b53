package nf4

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/testdata/golden"
)

// implementations runs f under every implementation of the kernels that this machine has.
func implementations(t *testing.T, f func(t *testing.T)) {
	for _, impl := range kernel.List() {
		t.Run("impl="+impl, func(t *testing.T) {
			restore, err := kernel.Select(impl)
			if err != nil {
				t.Fatal(err)
			}
			defer restore()
			f(t)
		})
	}
}

var dtypes = map[string]DType{"float32": Float32, "bfloat16": BFloat16, "float16": Float16}

// parseCase takes the KIND/DTYPE/TYPE/BLOCK of a golden tensor's name apart.
func parseCase(t *testing.T, name string) (src string, d DType, c Config) {
	t.Helper()
	p := strings.Split(name, "/")
	d, ok := dtypes[p[1]]
	typ, err := ParseType(p[2])
	if err != nil || !ok {
		t.Fatalf("golden case %s: %v", name, err)
	}
	block, err := strconv.Atoi(p[3])
	if err != nil {
		t.Fatal(err)
	}
	return "src/" + p[0] + "/" + p[1], d, Config{Type: typ, BlockSize: block}
}

// Codes and absmax are bitsandbytes' byte for byte, from bytes and, for float32, from a slice of values.
func TestGoldenQuantize(t *testing.T) { implementations(t, testGoldenQuantize) }

func testGoldenQuantize(t *testing.T) {
	g := golden.Load(t)
	names := g.Names(t, "q/", "/codes")
	for _, name := range names {
		srcName, d, c := parseCase(t, name)
		src := g.Bytes(t, srcName)
		n := len(src) / d.Size()
		wantCodes, wantAbsmax := g.Bytes(t, "q/"+name+"/codes"), g.Float32s(t, "q/"+name+"/absmax")
		codes, absmax := make([]byte, c.CodesLen(n)), make([]float32, c.Blocks(n))
		if err := c.QuantizeBytes(codes, absmax, src, d); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		check := func() {
			t.Helper()
			if !bytes.Equal(codes, wantCodes) {
				t.Errorf("%s: codes (-want +got)\n%s", name, cmp.Diff(wantCodes, codes))
			}
			if !slices.EqualFunc(absmax, wantAbsmax, sameBits) {
				t.Errorf("%s: absmax (-want +got)\n%s", name, cmp.Diff(wantAbsmax, absmax))
			}
		}
		check()
		if d == Float32 {
			clear(codes)
			clear(absmax)
			if err := c.Quantize(codes, absmax, g.Float32s(t, srcName)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			check()
		}
	}
	t.Logf("%d cases", len(names))
}

// Decoded values equal bitsandbytes' in every bit but the sign of a zero.
func TestGoldenDequantize(t *testing.T) { implementations(t, testGoldenDequantize) }

func testGoldenDequantize(t *testing.T) {
	g := golden.Load(t)
	names := g.Names(t, "q/", "/decoded")
	for _, name := range names {
		_, d, c := parseCase(t, name)
		codes, absmax := g.Bytes(t, "q/"+name+"/codes"), g.Float32s(t, "q/"+name+"/absmax")
		want := g.Bytes(t, "q/"+name+"/decoded")
		checkDecoded(t, name, c, d, codes, absmax, want)
	}
	t.Logf("%d cases", len(names))
}

// Every code with scales of every magnitude, negative and overflowing ones included.
func TestGoldenDecodeScales(t *testing.T) { implementations(t, testGoldenDecodeScales) }

func testGoldenDecodeScales(t *testing.T) {
	g := golden.Load(t)
	scales := g.Float32s(t, "decode/scales")
	block := []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	codes := bytes.Repeat(block, 2*len(scales))
	for _, name := range g.Names(t, "decode/", "4") {
		dname, tname, _ := strings.Cut(name+"4", "/")
		typ, err := ParseType(tname)
		if err != nil {
			t.Fatal(err)
		}
		d := dtypes[dname]
		once := g.Bytes(t, "decode/"+dname+"/"+tname)
		var want []byte
		for row := range slices.Chunk(once, 16*d.Size()) {
			want = append(append(want, row...), row...)
		}
		checkDecoded(t, name, Config{Type: typ, BlockSize: 32}, d, codes, scales, want)
	}
}

func checkDecoded(t *testing.T, name string, c Config, d DType, codes []byte, absmax []float32, want []byte) {
	t.Helper()
	n := len(want) / d.Size()
	got := make([]byte, len(want))
	if err := c.DequantizeBytes(got, d, codes, absmax, n); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	for i := range n {
		if w, g := element(want, d, i), element(got, d, i); w != g && (w|g)&0x7fffffff != 0 {
			t.Errorf("%s: decoded value %d has bits %#x (want %#x)", name, i, g, w)
			return
		}
	}
	if d != Float32 {
		return
	}
	values := make([]float32, n)
	if err := c.Dequantize(values, codes, absmax); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	for i, v := range values {
		if math.Float32bits(v) != element(got, d, i) {
			t.Errorf("%s: value %d is %v as a float32 and %#x as bytes", name, i, v, element(got, d, i))
			return
		}
	}
}

// element returns the bits of element i, in the upper half for a 16-bit type.
func element(b []byte, d DType, i int) uint32 {
	if d == Float32 {
		return binary.LittleEndian.Uint32(b[4*i:])
	}
	return uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16
}

func TestGoldenCodebook(t *testing.T) {
	g := golden.Load(t)
	for _, typ := range []Type{NF4, FP4} {
		want, got := g.Float32s(t, "table/"+typ.String()), Codebook(typ)
		if !slices.EqualFunc(got[:], want, sameBits) {
			t.Errorf("%v (-want +got)\n%s", typ, cmp.Diff(want, got[:]))
		}
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
