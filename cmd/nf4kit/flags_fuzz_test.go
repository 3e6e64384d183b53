package main

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
)

// What a recipe sets is a value of a flag of the command, or the recipe is a usage error.
func FuzzRecipe(f *testing.F) {
	for _, s := range []string{"type: fp4\n", "skip: [a, b]\nblock-size: 128\n", "a: &a [*a]\n", "? {}\n: 1\n", "type: !!binary eA==\n", "jobs: 1e400\n"} {
		f.Add([]byte(s))
	}
	file := filepath.Join(f.TempDir(), "recipe.yaml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(file, raw, 0o666); err != nil {
			t.Fatal(err)
		}
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		kind, skip, size := fs.String("type", "nf4", ""), fs.StringArray("skip", nil, ""), fs.Int("block-size", 64, "")
		err := applyRecipe(fs, file)
		if usage := (*usageError)(nil); err != nil && !errors.As(err, &usage) {
			t.Fatalf("%T: %v", err, err)
		}
		if err != nil { // the run ends here, whatever a flag holds
			return
		}
		if !fs.Changed("type") && *kind != "nf4" || !fs.Changed("skip") && len(*skip) > 0 || !fs.Changed("block-size") && *size != 64 {
			t.Errorf("%q changed a flag and does not say so", raw)
		}
	})
}

func FuzzSizes(f *testing.F) {
	for _, s := range []string{"5GB", "512MiB", "0", "-1", "1e30", "9223372036854775807", "5%", "0.05", "NaN", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize("x", s); err == nil && (n < 0 || n > 1<<62) {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
		if v, err := parseShare(s); err == nil && (math.IsNaN(v) || v < 0 || v > 10) {
			t.Errorf("parseShare(%q) = %g", s, v)
		}
	})
}
