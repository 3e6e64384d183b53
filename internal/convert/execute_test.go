package convert

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

func TestExecuteSameBytesForAnyJobsAndMemory(t *testing.T) {
	src := openTensors(t, []testTensor{
		{name: "a.q_proj.weight", dtype: safetensors.BF16, shape: []int64{1100, 997}}, // two ranges and an odd tail
		{name: "a.k_proj.weight", dtype: safetensors.F32, shape: []int64{513, 1023}},
		{name: "a.v_proj.weight", dtype: safetensors.F16, shape: []int64{3, 5}},
		{name: "a.o_proj.weight", dtype: safetensors.F64, shape: []int64{257, 1031}},
		{name: "a.norm.weight", dtype: safetensors.F32, shape: []int64{997}},
		{name: "embed_tokens.weight", dtype: safetensors.F16, shape: []int64{700, 997}},
		{name: "ids", dtype: safetensors.U8, shape: []int64{1_200_001}},
		{name: "none", dtype: safetensors.F32, shape: []int64{0, 4}},
		{name: "one", dtype: safetensors.F32, shape: []int64{}},
	}, 1)
	options := []Options{
		{},
		{Spec: bnb.Format{Type: nf4.FP4, BlockSize: 4096}},
		{Spec: bnb.Format{NoDoubleQuant: true, BlockSize: 128}, DType: "float16"},
		{Spec: bnb.Format{Storage: bnb.Float16}, Targets: arch.Transformers5},
		{Spec: bnb.Format{BlockSize: 32}, Rules: []Rule{{Pattern: regexp.MustCompile("q_proj"), Change: bnb.Change{BlockSize: new(2048)}}}},
	}
	if testing.Short() {
		options = options[:2] // each takes a minute under the race detector
	}
	for _, opt := range options {
		t.Run(opt.Spec.String(), func(t *testing.T) {
			_, want, data := execute(t, src, opt, Execution{Jobs: 1})
			// The least memory leaves no budget at all: every tensor streams and every scale spills.
			for _, x := range []Execution{{Jobs: 1}, {Jobs: 5}, {Jobs: 1, MaxMemory: stream.LeastMemory(1)}, {Jobs: 3, MaxMemory: stream.LeastMemory(3)},
				{Jobs: 2, MaxMemory: stream.LeastMemory(2) + 1<<20}} {
				_, got, again := execute(t, src, opt, x)
				for name := range data {
					if !bytes.Equal(data[name], again[name]) {
						t.Errorf("%+v: %s differs", x, name)
					}
				}
				for i := range got {
					got[i].ReadTwice, want[i].ReadTwice = false, false
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%+v: results (-one worker +this):\n%s", x, d)
				}
			}
			_, _, plain := execute(t, src, opt, Execution{NoError: true})
			for name := range data {
				if !bytes.Equal(data[name], plain[name]) {
					t.Errorf("without error figures %s differs", name)
				}
			}
		})
	}
}

// Packed codes that are labelled as floats hold no NaN, one code of each word that would be one being another; with
// ExactStorage they are those of bytes.
func TestStorageWithoutNaN(t *testing.T) {
	src := openTensors(t, []testTensor{{name: "a.q_proj.weight", dtype: safetensors.BF16, shape: []int64{600, 992}}}, 3)
	const name = "a.q_proj.weight"
	for _, scale := range []bnb.Scale{bnb.AbsMax, bnb.MSESigned} {
		for _, storage := range []bnb.Storage{bnb.BFloat16, bnb.Float16, bnb.Float32} {
			opt := Options{Spec: bnb.Format{Scale: scale}}
			_, _, bytesOf := execute(t, src, opt, Execution{})
			opt.Spec.Storage, opt.Targets = storage, arch.Transformers5
			_, r, free := execute(t, src, opt, Execution{})
			opt.ExactStorage = true
			_, _, exact := execute(t, src, opt, Execution{})
			if !bytes.Equal(exact[name], bytesOf[name]) {
				t.Errorf("%v %v: --exact-storage changes codes", scale, storage)
			}
			words := quantize.WordsOf(storage)
			changed := int64(0)
			for i := range free[name] {
				d := free[name][i] ^ exact[name][i]
				changed += int64(min(d>>4, 1) + min(d&15, 1))
			}
			nans := words.Count(exact[name])
			if nans == 0 || words.Count(free[name]) != 0 || changed != nans || r[0].Freed.Codes != nans || r[0].Freed.Added <= 0 {
				t.Errorf("%v %v: %d NaNs, of which %d are left; %d codes differ, %+v", scale, storage, nans, words.Count(free[name]), changed, r[0].Freed)
			}
			for part := range free {
				if part != name && !bytes.Equal(free[part], exact[part]) {
					t.Errorf("%v %v: %s differs", scale, storage, part)
				}
			}
		}
	}
}

func floatsOf(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// TestErrorFiguresAreOfTheBytesWritten decodes the output with the public
// packages and sums again, in another order.
func TestErrorFiguresAreOfTheBytesWritten(t *testing.T) {
	const n = 1100 * 997
	src := openTensors(t, []testTensor{{name: "x.proj.weight", dtype: safetensors.F32, shape: []int64{1100, 997}}}, 7)
	raw := make([]byte, 4*n)
	if err := stream.ReadFull(src.Tensors[0], raw, 0); err != nil {
		t.Fatal(err)
	}
	x := floatsOf(raw)
	for _, typ := range []nf4.Type{nf4.NF4, nf4.FP4} {
		p, r, out := execute(t, src, Options{Spec: bnb.Format{Type: typ}}, Execution{})
		cfg := p.items[0].Spec.Config()
		var scales = make([]float32, cfg.Blocks(n))
		st := out["x.proj.weight.quant_state.bitsandbytes__"+typ.String()]
		var offset float64
		if _, err := fmt.Sscanf(string(st[bytes.Index(st, []byte("nested_offset\": "))+16:]), "%g", &offset); err != nil {
			t.Fatal(err)
		}
		err := doublequant.Dequantize(scales, out["x.proj.weight.absmax"], floatsOf(out["x.proj.weight.nested_absmax"]), float32(offset))
		if err != nil {
			t.Fatal(err)
		}
		w := make([]float32, n)
		if err := cfg.Dequantize(w, out["x.proj.weight"], scales); err != nil {
			t.Fatal(err)
		}
		want := kernel.Sums{N: n}
		for i := n - 1; i >= 0; i-- {
			a, b := float64(x[i]), float64(w[i])
			want.X2 += a * a
			want.W2 += b * b
			want.XW += a * b
			want.E2 += (a - b) * (a - b)
			want.AbsE += math.Abs(a - b)
			want.Max = max(want.Max, math.Abs(a-b))
		}
		close := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-10*math.Abs(a) })
		if d := cmp.Diff(want, r[0].Written, close); d != "" {
			t.Errorf("%s (-decoded +reported):\n%s", typ, d)
		}
		// The other type's figures are those it would be written with.
		other := nf4.FP4
		if typ == nf4.FP4 {
			other = nf4.NF4
		}
		_, r2, _ := execute(t, src, Options{Spec: bnb.Format{Type: other}}, Execution{})
		if d := cmp.Diff(r2[0].Written, r[0].Other); d != "" {
			t.Errorf("%s beside %s (-written +compared):\n%s", other, typ, d)
		}
	}
}

func TestValueErrors(t *testing.T) {
	nan := func(at int, v float64) func(int) float64 {
		return func(i int) float64 {
			if i == at {
				return v
			}
			return 0.01
		}
	}
	const big = 1100 * 997
	for _, c := range []struct {
		name   string
		tensor testTensor
		opt    Options
		want   string
	}{
		{"nan in quantized", testTensor{"m.proj.weight", safetensors.BF16, []int64{1100, 997}, nan(big-3, math.NaN())}, Options{},
			`weights.safetensors: tensor "m.proj.weight": element 1096697 ([1099, 994]) is NaN; want finite weights`},
		{"inf in quantized f32", testTensor{"m.proj.weight", safetensors.F32, []int64{64, 64}, nan(65, math.Inf(-1))}, Options{},
			`weights.safetensors: tensor "m.proj.weight": element 65 ([1, 1]) is -Inf; want finite weights`},
		{"overflow f16", testTensor{"m.proj.weight", safetensors.F32, []int64{64, 64}, nan(70, 1e6)}, Options{DType: "float16"},
			`weights.safetensors: tensor "m.proj.weight": element 70 ([1, 6]) is 1e+06, which overflows float16; want a run dtype that holds it`},
		{"overflow bf16", testTensor{"m.proj.weight", safetensors.F32, []int64{64, 64}, nan(0, math.MaxFloat32)}, Options{},
			`weights.safetensors: tensor "m.proj.weight": element 0 ([0, 0]) is 3.4028234663852886e+38, which overflows bfloat16; want a run dtype that holds it`},
		{"overflow in kept", testTensor{"m.norm.weight", safetensors.F32, []int64{70}, nan(69, 70000)}, Options{DType: "float16"},
			`weights.safetensors: tensor "m.norm.weight": element 69 ([69]) is 70000, which overflows float16; want a run dtype that holds it`},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := openTensors(t, []testTensor{c.tensor, {name: "z.proj.weight", dtype: safetensors.BF16, shape: []int64{4, 4}}}, 1)
			p, err := NewPlan(src, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			for _, jobs := range []int{1, 4} {
				_, err = p.Execute(context.Background(), newMemSink(t, p), Execution{Jobs: jobs})
				var ve *weights.ValueError
				if !errors.As(err, &ve) || ve.Error() != c.want {
					t.Errorf("%d jobs: error %v\nwant %s", jobs, err, c.want)
				}
			}
		})
	}
}

func TestNonFiniteInKeptIsReported(t *testing.T) {
	src := openTensors(t, []testTensor{
		{"m.norm.weight", safetensors.F32, []int64{300_000}, func(i int) float64 {
			if i >= 299_000 {
				return math.Inf(1)
			}
			return 1
		}},
		{name: "z.proj.weight", dtype: safetensors.BF16, shape: []int64{4, 4}},
	}, 1)
	p, r, _ := execute(t, src, Options{}, Execution{Jobs: 3})
	for i := range r {
		want := int64(-1)
		if p.items[i].Name == "m.norm.weight" {
			want = 299_000
		}
		if r[i].NonFinite != want {
			t.Errorf("%s: first non-finite element %d; want %d", p.items[i].Name, r[i].NonFinite, want)
		}
	}
}
