//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type packedCase struct {
	File   string  `json:"file"`
	Weight string  `json:"weight"`
	Shape  []int64 `json:"shape"`
	Out    string  `json:"out"`
}

type packedAnswer struct {
	status
	CodesEqual   bool                `json:"codes_equal"`
	DecodedEqual bool                `json:"decoded_equal"`
	ScalesOff    float64             `json:"scales_off"`
	LoadedEqual  bool                `json:"loaded_equal"`
	Keys         map[string][]string `json:"keys"`
	Quantized    []string            `json:"quantized"`
}

// TestPackedOutside builds examples/pack as a module of its own, which has this one's public packages and nothing else,
// and has bitsandbytes and transformers load what it writes.
func TestPackedOutside(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join(root, "examples", "pack", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/nf4kit/nf4kit"
	for name, data := range map[string]string{
		"main.go": string(source), "go.sum": string(sums),
		"go.mod": "module example.com/pack\n\ngo 1.26\n\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + root + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "out.safetensors")
	for _, args := range [][]string{{"go", "build", "-mod=mod", "-o", "pack"}, {filepath.Join(dir, "pack"), file}} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	module4 := "model.layers.0.self_attn.q_proj"
	for _, env := range environments {
		c := packedCase{File: file, Weight: module4 + ".weight", Shape: []int64{64, 128}, Out: filepath.Join(t.TempDir(), "llama")}
		got := python[packedCase, packedAnswer](t, env, "packed.py", []packedCase{c})[0]
		// The nested codes are the nearest of 256, which leaves scales within half a step of the widest.
		if got.ScalesOff > 0.02 {
			t.Errorf("%s: a scale is %v of the largest off", env, got.ScalesOff)
		}
		got.ScalesOff = 0
		want := packedAnswer{CodesEqual: true, DecodedEqual: true, LoadedEqual: true, Quantized: []string{module4},
			Keys: map[string][]string{"missing": {}, "unexpected": {}, "mismatched": {}}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(packedAnswer{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", env, diff)
		}
	}
}
