package verify

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// half is a source of one f16 weight [33, 63], the count of which is odd. In block 0 element 5 has a scaled value within
// 1e-7 of a threshold of both types, and in block 1 elements 64 to 69 lie between FP4's two zeros.
func half(t *testing.T) (path string, lo, hi [2]uint8) {
	t.Helper()
	const rows, cols = 33, 63
	rng := rand.New(rand.NewPCG(1, 9))
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = float32(rng.NormFloat64()) * 0.02
	}
	for i := range 64 {
		v[i] = float32(math.Mod(float64(v[i]), 0.01))
	}
	for i := 64; i < 70; i++ {
		v[i] = 1e-5
	}
	raw := make([]byte, 2*len(v))
	kernel.Narrow(raw, kernel.F16, v)
	// A half over a half, both normal numbers: the quotients are dense enough.
	place := func(at int, threshold float64) bool {
		for a := uint16(0x3000); a < 0x3400; a++ {
			af := float64(widenHalf(a))
			for x := uint16(0x2800); x < a; x++ {
				if d := float64(widenHalf(x))/af - threshold; math.Abs(d) < 2e-7 && d != 0 {
					binary.LittleEndian.PutUint16(raw[0:], a)
					binary.LittleEndian.PutUint16(raw[2*at:], x)
					return true
				}
			}
		}
		return false
	}
	th := nf4.Thresholds(nf4.NF4)
	found := false
	for r := 9; r < 15 && !found; r++ {
		if found = place(5, float64(th[r])); found {
			lo[0], hi[0] = uint8(r), uint8(r+1)
		}
	}
	if !found {
		t.Fatal("no pair of halves near a threshold")
	}
	path = filepath.Join(t.TempDir(), "half.safetensors")
	writeFile(t, path, []safetensors.Entry{{Name: "a.weight", DType: safetensors.F16, Shape: []int64{rows, cols}}}, map[string][]byte{"a.weight": raw})
	return path, lo, hi
}

func widenHalf(h uint16) float32 {
	var v [1]float32
	kernel.Widen(v[:], binary.LittleEndian.AppendUint16(nil, h), kernel.F16)
	return v[0]
}

// TestTolerances makes the differences that other implementations show in files without a manifest, and differences
// just beyond them.
func TestTolerances(t *testing.T) {
	source, lo, hi := half(t)
	code := func(at int, change func(c byte) byte) func(string, []byte) (string, []byte) {
		return func(name string, data []byte) (string, []byte) {
			if name == "a.weight" {
				shift := 4 * (1 - at%2)
				c := data[at/2] >> shift & 15
				data[at/2] = data[at/2]&^(15<<shift) | change(c)<<shift
			}
			return name, data
		}
	}
	other := func(a, b uint8) func(c byte) byte {
		return func(c byte) byte {
			switch c {
			case a:
				return b
			case b:
				return a
			}
			t.Fatalf("code %d, want %d or %d", c, a, b)
			return 0
		}
	}
	nested := func(step int) func(string, []byte) (string, []byte) {
		return func(name string, data []byte) (string, []byte) {
			if name == "a.weight.absmax" {
				data[7] = byte(int(data[7]) + step)
			}
			return name, data
		}
	}
	offset := func(by float64) func(string, []byte) (string, []byte) {
		return func(name string, data []byte) (string, []byte) {
			if i := strings.Index(string(data), `"nested_offset": `); strings.Contains(name, "quant_state") && i > 0 {
				text := string(data[i+17:])
				text = text[:strings.IndexAny(text, "}")]

				v := parse(t, text) + by
				return name, []byte(string(data[:i+17]) + formatFloat(v) + "}")
			}
			return name, data
		}
	}
	nf, fp := convert.Options{DType: "float16"}, convert.Options{DType: "float16", Spec: bnb.Format{Type: nf4.FP4}}
	for _, c := range []struct {
		name string
		opt  convert.Options
		edit func(string, []byte) (string, []byte)
		want Tolerated
		fail bool
	}{
		{"nothing", nf, code(0, func(c byte) byte { return c }), Tolerated{}, false},
		{"code near a threshold", nf, code(5, other(lo[0], hi[0])), Tolerated{NearCodes: 1}, false},
		{"code two steps away", nf, code(5, func(byte) byte { return hi[0] + 1 }), Tolerated{}, true},
		{"code one step away, not near", nf, code(100, func(c byte) byte { return (c + 1) & 15 }), Tolerated{}, true},
		{"zeros of FP4", fp, code(64, other(8, 0)), Tolerated{ZeroCodes: 1}, false},
		{"padding", nf, code(33*63, func(byte) byte { return 3 }), Tolerated{Padding: 1}, false},
		{"nested code up", nf, nested(1), Tolerated{}, true},
		{"nested code down", nf, nested(-1), Tolerated{}, true},
		{"offset far", nf, offset(1e-4), Tolerated{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := converted(t, source, c.opt)
			os.Remove(filepath.Join(dir, manifest.Name))
			rewrite(t, dir, c.edit)
			r := check(t, dir, Options{Source: open(t, source)})
			wrong := r.Proof.WrongCodes + r.Proof.WrongScales
			if (wrong > 0) != c.fail {
				t.Errorf("%d wrong, want failure %v: %+v", wrong, c.fail, r.Findings)
			}
			got := r.Proof.Tolerated
			if c.name == "offset far" {
				got = Tolerated{} // the nested codes differ too
			}
			if got != c.want {
				t.Errorf("tolerated %+v, want %+v", got, c.want)
			}
		})
	}
	t.Run("offset near", func(t *testing.T) {
		dir := converted(t, source, nf)
		os.Remove(filepath.Join(dir, manifest.Name))
		rewrite(t, dir, offset(1.5e-7))
		r := check(t, dir, Options{Source: open(t, source)})
		if p := r.Proof; p.Offsets != 1 || p.MaxOffset > nearOffset || p.MaxOffset == 0 {
			t.Errorf("proof %+v, want one offset tolerated", p)
		}
	})
	t.Run("none in our own", func(t *testing.T) {
		dir := converted(t, source, nf)
		rewrite(t, dir, code(5, other(lo[0], hi[0])))
		r := check(t, dir, Options{Source: open(t, source)})
		if p := r.Proof; !p.Exact || p.WrongCodes != 1 || p.Total() != 0 {
			t.Errorf("proof %+v, want one wrong code", p)
		}
	})
}

func parse(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// TestScaleCodes: the codes that bitsandbytes itself gives scales on a CPU are tolerated, and hardly any code beside them.
func TestScaleCodes(t *testing.T) {
	golden, err := safetensors.Open("testdata/nested.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	data := map[string][]byte{}
	for _, x := range golden.Tensors() {
		data[x.Name] = make([]byte, x.Size())
		if n, err := x.ReadAt(data[x.Name], 0); n < len(data[x.Name]) {
			t.Fatal(err)
		}
	}
	widen := func(name string) []float32 {
		v := make([]float32, len(data[name])/4)
		kernel.Widen(v, data[name], kernel.F32)
		return v
	}
	scales, m, codes, table := widen("scales"), widen("m"), data["codes"], doublequant.Map()
	want := make([]byte, len(codes))
	kernel.DynamicQuantize(want, make([]float32, len(m)), scales, 0)
	missed, passed, beside := 0, 0, 0
	for i, c := range codes {
		if c != want[i] {
			missed++
			if step := int(c) - int(want[i]); step < -1 || step > 1 {
				passed++
			}
		}
		if !nearScale(&table, c, scales[i], m[i/256]) {
			t.Errorf("scale %d, %v of %v: code %d of bitsandbytes is not tolerated, the nearest is %d", i, scales[i], m[i/256], c, want[i])
		}
		if y := scales[i] / m[i/256]; math.Abs(float64(y)) > 1e-3 && c > 0 && nearScale(&table, c-1, scales[i], m[i/256]) {
			beside++
		}
	}
	if missed < 1000 || passed < 500 {
		t.Errorf("%d codes in the goldens are not the nearest, %d of them several steps away: too few to show anything", missed, passed)
	}
	if limit := len(codes) / 100; beside > limit {
		t.Errorf("%d codes one step away are tolerated, want at most %d of %d", beside, limit, len(codes))
	}
}

// TestMeanScale: a scale that equals the mean of all has the code 127; bitsandbytes' lookup makes it 123 or 131.
func TestMeanScale(t *testing.T) {
	raw := make([]byte, 2*3*64)
	v := make([]float32, 3*64)
	for i := range v {
		v[i] = float32(i/64+1) / float32(i%64+1)
	}
	kernel.Narrow(raw, kernel.BF16, v)
	source := filepath.Join(t.TempDir(), "three.safetensors")
	writeFile(t, source, []safetensors.Entry{{Name: "a.weight", DType: safetensors.BF16, Shape: []int64{3, 64}}}, map[string][]byte{"a.weight": raw})
	for code, fail := range map[byte]bool{127: false, 131: false, 123: false, 122: true, 132: true} {
		dir := converted(t, source, convert.Options{})
		os.Remove(filepath.Join(dir, manifest.Name))
		rewrite(t, dir, func(name string, data []byte) (string, []byte) {
			if name == "a.weight.absmax" {
				if data[1] != 127 {
					t.Fatalf("code %d, want 127", data[1])
				}
				data[1] = code
			}
			return name, data
		})
		p := check(t, dir, Options{Source: open(t, source)}).Proof
		if p.WrongScales > 0 != fail || p.NestedCodes > 0 != (!fail && code != 127) || p.offCenter > 0 {
			t.Errorf("code %d: %+v, want failure %v", code, p, fail)
		}
	}
}

// TestAllOneStep: each nested code one step off is no other implementation's doing.
func TestAllOneStep(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	os.Remove(filepath.Join(dir, manifest.Name))
	rewrite(t, dir, func(name string, data []byte) (string, []byte) {
		if strings.HasSuffix(name, ".absmax") && !strings.HasSuffix(name, "nested_absmax") {
			for i := range data {
				data[i] ^= 1
			}
		}
		return name, data
	})
	r := check(t, dir, Options{Source: open(t, llama)})
	if p := r.Proof; !r.Failed() || p.WrongScales < p.NestedCodes*100 {
		t.Errorf("proof %+v, want nearly all scales wrong", p)
	}
}

func TestTooMany(t *testing.T) {
	for _, c := range []struct {
		p    Proof
		fail bool
	}{
		{Proof{Codes: 1e6, Scales: 1e5, Tolerated: Tolerated{NearCodes: 1256, NestedCodes: 1e5, offCenter: 2256, ZeroCodes: 1e5, Padding: 1e4}}, false},
		{Proof{Codes: 1e6, Tolerated: Tolerated{NearCodes: 1257}}, true},
		{Proof{Scales: 1e5, Tolerated: Tolerated{NestedCodes: 2257, offCenter: 2257}}, true},
	} {
		r := &Report{}
		if r.tooMany(&c.p); r.Failed() != c.fail {
			t.Errorf("%+v: findings %v, want failure %v", c.p, r.Findings, c.fail)
		}
	}
}
