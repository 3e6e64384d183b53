//go:build interop

package interop

import (
	"bytes"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// loraCase is one question to lora.py, which says what each field means.
type loraCase struct {
	Kind        string   `json:"kind"`
	Out         string   `json:"out,omitempty"`
	Names       []string `json:"names"`
	Type        string   `json:"type,omitempty"`
	DoubleQuant bool     `json:"double_quant"`
	DType       string   `json:"dtype,omitempty"`
	DoRA        bool     `json:"dora"`
	Source      string   `json:"source,omitempty"`
	Base        string   `json:"base,omitempty"`
	Adapter     string   `json:"adapter,omitempty"`
	Grams       string   `json:"grams,omitempty"`
}

type loraAnswer struct {
	Error  string `json:"error"`
	Merges []struct {
		Name     string   `json:"name"`
		Adapters []string `json:"adapters"`
		Safe     bool     `json:"safe"`
		Exact    bool     `json:"exact"`
	} `json:"merges"`
	Worst      float64 `json:"worst"`
	Modules    int     `json:"modules"`
	Difference float64 `json:"difference"`
}

// tensorsOf reads every tensor of a directory or a file.
func tensorsOf(t *testing.T, path string) map[string]safetensors.Filled {
	t.Helper()
	src, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := map[string]safetensors.Filled{}
	for _, x := range src.Tensors {
		data, err := io.ReadAll(x.Section())
		if err != nil {
			t.Fatal(err)
		}
		out[x.Name] = safetensors.Filled{Entry: safetensors.Entry{Name: x.Name, DType: x.DType, Shape: x.Shape}, Data: data}
	}
	return out
}

// Adapters of PEFT's making, merged and combined by it and by us.
func TestLora(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	four := []loraCase{
		{Kind: "4bit", Out: filepath.Join(dir, "nf4-dq"), Type: "nf4", DoubleQuant: true, DType: "bfloat16"},
		{Kind: "4bit", Out: filepath.Join(dir, "nf4"), Type: "nf4", DType: "bfloat16"},
		{Kind: "4bit", Out: filepath.Join(dir, "fp4"), Type: "fp4", DType: "float16"},
		{Kind: "4bit", Out: filepath.Join(dir, "nf4-dora"), Type: "nf4", DType: "bfloat16", DoRA: true},
	}
	combine := filepath.Join(dir, "combine")
	answers := python[loraCase, loraAnswer](t, t5, "lora.py", append([]loraCase{{Kind: "merge", Out: dir}, {Kind: "combine", Out: combine}}, four...))
	for _, a := range answers {
		if a.Error != "" {
			t.Fatal(a.Error)
		}
	}
	const atLeast = 25 // configurations
	if n := len(answers[0].Merges); n < atLeast {
		t.Errorf("%d configurations, want %d or more", n, atLeast)
	}
	for _, c := range answers[0].Merges {
		t.Run(c.Name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			rounding := "peft"
			if c.Safe {
				rounding = "safe"
			}
			nf4kit(t, slices.Concat([]string{"lora", "merge", filepath.Join(dir, c.Name, "base")}, c.Adapters, []string{out, "--rounding", rounding, "-q"})...)
			got, want := tensorsOf(t, out), tensorsOf(t, filepath.Join(dir, c.Name, "merged"))
			compareMerged(t, got, want, c.Exact)
			for _, a := range c.Adapters {
				nf4kit(t, "lora", "inspect", a, "--base", filepath.Join(dir, c.Name, "base"), "-q")
			}
		})
	}
	for _, c := range four {
		t.Run(filepath.Base(c.Out), func(t *testing.T) { checkFourBit(t, c) })
	}
	t.Run("combine", func(t *testing.T) { checkCombine(t, combine) })
}

// compareMerged holds tensors to PEFT's: byte for byte, or where norms are summed in another order within a unit in the last place
// of what was added up, with few that differ at all in 16 bits.
func compareMerged(t *testing.T, got, want map[string]safetensors.Filled, exact bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d tensors, want %d", len(got), len(want))
	}
	for name, w := range want {
		g, ok := got[name]
		switch {
		case !ok:
			t.Errorf("%s is missing", name)
		case g.DType != w.DType || !slices.Equal(g.Shape, w.Shape):
			t.Errorf("%s is %s %v, want %s %v", name, g.DType, g.Shape, w.DType, w.Shape)
		case bytes.Equal(g.Data, w.Data):
		case exact:
			t.Errorf("%s differs from PEFT's", name)
		default:
			a, b := floats(t, g), floats(t, w)
			var squares float64
			for _, x := range b {
				squares += x * x
			}
			rms, differ := math.Sqrt(squares/float64(len(b))), 0
			for i := range a {
				if a[i] != b[i] {
					differ++
				}
				if math.Abs(a[i]-b[i]) > (math.Abs(b[i])+rms)*ulp(w.DType) {
					t.Errorf("%s: element %d is %v, PEFT has %v", name, i, a[i], b[i])
					break
				}
			}
			if w.DType != safetensors.F32 && differ*500 > len(a) {
				t.Errorf("%s: %d of %d elements are not PEFT's", name, differ, len(a))
			}
		}
	}
}

// ulp is a unit in the last place, relative to the number.
func ulp(d safetensors.DType) float64 {
	switch d {
	case safetensors.BF16:
		return 0x1p-7
	case safetensors.F16:
		return 0x1p-10
	}
	return 0x1p-22
}

func floats(t *testing.T, f safetensors.Filled) []float64 {
	t.Helper()
	var out []float64
	switch f.DType {
	case safetensors.F32:
		for i := 0; i < len(f.Data); i += 4 {
			out = append(out, float64(math.Float32frombits(uint32(f.Data[i])|uint32(f.Data[i+1])<<8|uint32(f.Data[i+2])<<16|uint32(f.Data[i+3])<<24)))
		}
	case safetensors.BF16:
		for i := 0; i < len(f.Data); i += 2 {
			out = append(out, float64(math.Float32frombits(uint32(f.Data[i])<<16|uint32(f.Data[i+1])<<24)))
		}
	case safetensors.F16:
		for i := 0; i < len(f.Data); i += 2 {
			out = append(out, half(uint16(f.Data[i])|uint16(f.Data[i+1])<<8))
		}
	default:
		t.Fatalf("%s is %s", f.Name, f.DType)
	}
	return out
}

func half(h uint16) float64 {
	sign, exp, frac := 1-2*float64(h>>15), int(h>>10&31), float64(h&1023)
	if exp == 0 {
		return sign * math.Ldexp(frac, -24)
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// checkFourBit merges into a base of bitsandbytes' making: decoded it is bitsandbytes' dequantization plus PEFT's delta, quantized
// again it is what PEFT makes.
func checkFourBit(t *testing.T, c loraCase) {
	out := filepath.Join(t.TempDir(), "out")
	nf4kit(t, "lora", "merge", filepath.Join(c.Out, "base"), filepath.Join(c.Out, "adapter"), out, "-q")
	got := tensorsOf(t, out)
	decoded := tensorsOf(t, filepath.Join(c.Out, "decoded.safetensors"))
	maps.DeleteFunc(got, func(name string, _ safetensors.Filled) bool { return decoded[name].Data == nil })
	compareMerged(t, got, decoded, !c.DoRA)
	again := filepath.Join(t.TempDir(), "again")
	nf4kit(t, "lora", "merge", filepath.Join(c.Out, "base"), filepath.Join(c.Out, "adapter"), again, "-q", "--quantize")
	nf4kit(t, "verify", again)
	got = tensorsOf(t, again)
	for name, w := range tensorsOf(t, filepath.Join(c.Out, "merged.safetensors")) {
		switch g := got[name]; {
		case bytes.Equal(g.Data, w.Data):
		case w.DType == safetensors.U8 && filepath.Ext(name) == ".absmax" && nearly(g.Data, w.Data):
		case c.DoRA && fewDiffer(g.Data, w.Data): // a norm in another order
		default:
			t.Errorf("quantized %s differs from PEFT's", name)
		}
	}
}

// fewDiffer reports whether at most one byte in a thousand is another.
func fewDiffer(a, b []byte) bool {
	differ := 0
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			differ++
		}
	}
	return len(a) == len(b) && differ*1000 <= len(a)
}

// nearly reports whether nested codes are equal but for a few neighbours: bitsandbytes rounds the mean of the scales otherwise.
func nearly(a, b []byte) bool {
	differ := 0
	for i := range a {
		if d := int(a[i]) - int(b[i]); d != 0 {
			differ++
			if d*d > 1 {
				return false
			}
		}
	}
	return len(a) == len(b) && differ*100 <= len(a)
}

// checkCombine holds our combinations to PEFT's.
func checkCombine(t *testing.T, dir string) {
	for _, c := range []struct {
		name, method string
		weights      []float64
		flags        []string
	}{
		{"cat", "cat", []float64{0.7, 0.3}, nil},
		{"svd", "svd", []float64{0.7, -0.3}, nil},
		{"svd-5", "svd", []float64{1, 1}, []string{"--rank", "5"}},
		{"linear", "linear", []float64{0.7, -0.3}, nil},
		{"ties", "ties", []float64{1, 0.5}, []string{"--density", "0.4"}},
		{"ties-frequency", "ties", []float64{1, 0.5}, []string{"--density", "0.4", "--sign", "frequency"}},
		{"magnitude_prune", "magnitude_prune", []float64{0.7, 0.3}, []string{"--density", "0.3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			args := []string{"lora", "combine", filepath.Join(dir, "a"), filepath.Join(dir, "b"), out, "--method", c.method, "-q"}
			for _, w := range c.weights {
				args = append(args, "--weight", strconv.FormatFloat(w, 'g', -1, 64))
			}
			nf4kit(t, append(args, c.flags...)...)
			got := tensorsOf(t, filepath.Join(out, "adapter_model.safetensors"))
			want := tensorsOf(t, filepath.Join(dir, c.name, "adapter_model.safetensors"))
			if len(got) != len(want) {
				t.Errorf("%d tensors, want %d", len(got), len(want))
			}
			if c.method != "svd" { // where signs are free
				compareMerged(t, got, want, true)
				return
			}
			for name, w := range want {
				if b, ok := factorB(name); ok {
					compareProducts(t, name, got[name], got[b], w, want[b])
				}
			}
		})
	}
}

// LoftQ's adapter for the shipped model, with a scaling that is not 1: PEFT loads it, and it is within 1 % of the best.
func TestLoraInit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, adapter := convert(t, llama()), filepath.Join(dir, "adapter")
	nf4kit(t, "lora", "init", llama(), base, adapter, "--rank", "8", "--alpha", "16")
	a := python[loraCase, loraAnswer](t, t5, "lora.py", []loraCase{{Kind: "init", Source: llama(), Base: base, Adapter: adapter}})[0]
	if a.Error != "" {
		t.Fatal(a.Error)
	}
	const modules, above = 28, 1.01
	if a.Modules != modules || !(a.Worst <= above) || !(a.Difference > 0) {
		t.Errorf("%d modules, at worst %.4f of the best, logits moved by %.2g; want %d, at most %.2f, and some", a.Modules, a.Worst, a.Difference, modules, above)
	}
}

// TestLoraInitInputs holds an adapter for the error of the outputs to the best by Gram matrices, and that of OLoRA to PEFT's.
func TestLoraInitInputs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, adapter, olora := convert(t, llama()), filepath.Join(dir, "adapter"), filepath.Join(dir, "olora")
	text, _ := halves(t)
	grams := calibrate(t, t5, llama(), text, "--gram")
	nf4kit(t, "lora", "init", llama(), base, adapter, "--rank", "8", "--activations", grams)
	nf4kit(t, "lora", "init", llama(), olora, "--method", "olora", "--rank", "8", "--alpha", "16", "--base-out", filepath.Join(dir, "residual"))
	a := python[loraCase, loraAnswer](t, t5, "lora.py", []loraCase{{Kind: "init", Source: llama(), Base: base, Adapter: adapter, Grams: grams},
		{Kind: "olora", Source: llama(), Adapter: olora}})
	const modules, above, apart = 28, 1.01, 1e-3
	for i, most := range []float64{above, apart} {
		if a[i].Error != "" {
			t.Fatal(a[i].Error)
		}
		t.Logf("%d: %.5f", i, a[i].Worst)
		if a[i].Modules != modules || !(a[i].Worst <= most) {
			t.Errorf("%d: %d modules, at worst %.4f; want %d, at most %g", i, a[i].Modules, a[i].Worst, modules, most)
		}
	}
}

// factorB is the name of B for that of A.
func factorB(name string) (string, bool) {
	b := string(bytes.Replace(bytes.Replace([]byte(name), []byte("lora_A"), []byte("lora_B"), 1), []byte("lora_embedding_A"), []byte("lora_embedding_B"), 1))
	return b, b != name
}

func compareProducts(t *testing.T, name string, a, b, wantA, wantB safetensors.Filled) {
	t.Helper()
	if !slices.Equal(a.Shape, wantA.Shape) || !slices.Equal(b.Shape, wantB.Shape) {
		t.Fatalf("%s: shapes %v and %v, want %v and %v", name, a.Shape, b.Shape, wantA.Shape, wantB.Shape)
	}
	fa, fb, ga, gb := floats(t, a), floats(t, b), floats(t, wantA), floats(t, wantB)
	r, in, out := int(a.Shape[0]), int(a.Shape[1]), int(b.Shape[0])
	var diff, norm float64
	for i := range out {
		for j := range in {
			var x, y float64
			for k := range r {
				x += fb[i*r+k] * fa[k*in+j]
				y += gb[i*r+k] * ga[k*in+j]
			}
			diff += (x - y) * (x - y)
			norm += y * y
		}
	}
	if rel := math.Sqrt(diff / norm); !(rel < 1e-5) {
		t.Errorf("%s: the update is %.2g of it from PEFT's", name, rel)
	}
}
