//go:build interop

package interop

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// runPython runs a program of the repository in env and returns its standard output.
func runPython(t *testing.T, env environment, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), env.python(), append([]string{program}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1")
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e, ok := err.(*exec.ExitError); ok {
			stderr = e.Stderr
		}
		t.Fatalf("%s %s: %v\n%s", env, filepath.Base(program), err, stderr)
	}
	return out
}

// calibrate runs the program that the binary prints.
func calibrate(t *testing.T, env environment, model, text string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	program, out := filepath.Join(dir, "calibrate.py"), filepath.Join(dir, "act.safetensors")
	if err := os.WriteFile(program, []byte(nf4kit(t, "calibration-script")), 0o666); err != nil {
		t.Fatal(err)
	}
	runPython(t, env, program, append([]string{model, "--text", text, "-o", out, "--tokens", "2048", "--window", "128"}, args...)...)
	return out
}

// halves are two parts of the shipped Llama's held-out text.
func halves(t *testing.T) (first, second string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(llama(), "heldout.txt"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first, second = filepath.Join(dir, "first.txt"), filepath.Join(dir, "second.txt")
	for name, part := range map[string][]byte{first: text[:len(text)/2], second: text[len(text)/2:]} {
		if err := os.WriteFile(name, part, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return first, second
}

// TestScales converts the shipped Llama with every method. bitsandbytes decodes each, negative scales included, to what
// nf4kit dequantize does, and both versions of transformers load it.
func TestScales(t *testing.T) {
	t.Parallel()
	first, second := halves(t)
	act := calibrate(t, t5, llama(), first, "--gram", "--sensitivity")
	methods := []scaleMethod{
		{"absmax", nil, false, 1},
		{"mse", []string{"--scale", "mse"}, false, 0.95},
		{"columns", []string{"--quality", "better"}, true, 0.95},
		{"signed-32", []string{"--scale", "mse-signed", "--block-size", "32", "--double-quant=false"}, true, 0.95},
		{"moments", []string{"--activations", act}, true, 0.85},
		{"feedback", []string{"--quality", "best", "--activations", act}, true, 0.6},
		{"bits", []string{"--target-bpp", "5", "--activations", act}, true, 0.6},
	}
	var cases []dequantizedCase
	for _, m := range methods {
		out := convert(t, llama(), m.flags...)
		nf4kit(t, append([]string{"verify", out, "--source", llama()}, weighted(m.flags)...)...)
		plain := out + "-plain"
		nf4kit(t, "dequantize", out, plain)
		cases = append(cases, dequantizedCase{out, plain, "causal", "bfloat16"})
	}
	for _, env := range environments {
		for i, a := range python[dequantizedCase, dequantizedAnswer](t, env, "dequantized.py", cases) {
			t.Run(env.String()+"/"+methods[i].name, func(t *testing.T) {
				a.check(t, cases[i])
				if negative := a.Negative > 0; negative != methods[i].negative {
					t.Errorf("%d negative scales, want some: %v", a.Negative, methods[i].negative)
				}
			})
		}
	}
	checkKL(t, methods, cases, second)
}

// TestCalibrate has the built-in forward pass find what the program finds through transformers: the same windows and entries, and
// values that float32 sums in another order explain.
func TestCalibrate(t *testing.T) {
	text, _ := halves(t)
	program := calibrate(t, t5, llama(), text, "--gram")
	ours := filepath.Join(t.TempDir(), "ours.safetensors")
	nf4kit(t, "calibrate", llama(), "--text", text, "-o", ours, "--gram", "--max-tokens", "2048", "--context", "128")
	want, got := openActivations(t, program), openActivations(t, ours)
	for _, key := range []string{"format", "tokens", "heldout_tokens"} {
		if want.Metadata()[key] != got.Metadata()[key] {
			t.Errorf("metadata %s: %q, want %q", key, got.Metadata()[key], want.Metadata()[key])
		}
	}
	wantGroups, wantEntries := inputs(t, want)
	gotGroups, gotEntries := inputs(t, got)
	if diff := cmp.Diff(wantGroups, gotGroups); diff != "" {
		t.Fatalf("weights that share an entry (-want +got)\n%s", diff)
	}
	largest := 0.0
	for _, weight := range wantGroups { // the first of each
		for _, part := range []string{".moments", ".gram", ".heldout"} {
			w, g := want.Lookup(wantEntries[weight]+part), got.Lookup(gotEntries[weight]+part)
			if w == nil || g == nil || !slices.Equal(g.Shape, w.Shape) {
				t.Fatalf("%s%s: %v, want %v", weight, part, g, w)
			}
			a, b := floats32(t, w), floats32(t, g)
			var most, off float64
			for k := range a {
				most, off = max(most, math.Abs(float64(a[k]))), max(off, math.Abs(float64(a[k])-float64(b[k])))
			}
			largest = max(largest, off/most)
			if !(off <= 2e-6*most) {
				t.Errorf("%s%s: off by %.2g of its largest value", weight, part, off/most)
			}
		}
	}
	t.Logf("off by %.2g of the largest value of a tensor at most", largest)
}

// inputs are, by weight, the first in alphabetical order of those that share its entry, and the entry.
func inputs(t *testing.T, f *safetensors.File) (first, entries map[string]string) {
	if err := json.Unmarshal([]byte(f.Metadata()["linears"]), &entries); err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	first = map[string]string{}
	for _, w := range slices.Sorted(maps.Keys(entries)) {
		if of[entries[w]] == "" {
			of[entries[w]] = w
		}
		first[w] = of[entries[w]]
	}
	return first, entries
}

func openActivations(t *testing.T, path string) *safetensors.File {
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func floats32(t *testing.T, x *safetensors.Tensor) []float32 {
	raw := make([]byte, x.Size())
	if _, err := x.ReadAt(raw, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	v := make([]float32, len(raw)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}

// scaleMethod is one way to choose scales.
type scaleMethod struct {
	name     string
	flags    []string
	negative bool    // of either sign
	kl       float64 // at most as much, of that of absmax
}

// checkKL has every checkpoint nearer to the original than absmax, the first, on text that the calibration did not see, by what
// docs/scales.md claims with some room.
func checkKL(t *testing.T, methods []scaleMethod, cases []dequantizedCase, text string) {
	args := []string{llama()}
	for _, c := range cases {
		args = append(args, c.Quantized)
	}
	var figures []struct{ KL, Top1 float64 }
	evaluate := filepath.Join(root, "internal", "interop", "eval", "evaluate.py")
	if err := json.Unmarshal(runPython(t, t5, evaluate, append(args, "--text", text, "--tokens", "2048", "--window", "256", "--json")...), &figures); err != nil {
		t.Fatal(err)
	}
	if len(figures) != len(args) {
		t.Fatalf("%d figures of %d models", len(figures), len(args))
	}
	absmax := figures[1].KL
	for i, m := range methods {
		f := figures[i+1]
		t.Logf("%s: KL %.5f, %.2f of that of absmax; top token the same %.1f %%", m.name, f.KL, f.KL/absmax, 100*f.Top1)
		if !(f.KL <= m.kl*absmax) {
			t.Errorf("%s: KL %.5f is %.2f of that of absmax, want at most %.2f", m.name, f.KL, f.KL/absmax, m.kl)
		}
	}
}

// weighted are those of convert's flags that verify --source needs.
func weighted(flags []string) []string {
	for i, f := range flags {
		if f == "--activations" || f == "--imatrix" {
			return flags[i : i+2]
		}
	}
	return nil
}

// TestCalibrationEncoder has the program run in transformers 4.57 too, on an encoder without a head, with matrices in bfloat16
// and more of them than --memory holds, and bits chosen by it.
func TestCalibrationEncoder(t *testing.T) {
	t.Parallel()
	first, _ := halves(t)
	act := calibrate(t, t4, minilm(t), first, "--gram", "--sensitivity", "--dtype", "bfloat16", "--memory", "0.05")
	nf4kit(t, "verify", convert(t, minilm(t), "--activations", act, "--target-bpp", "4.5"), "--source", minilm(t), "--activations", act)
}
