//go:build interop

package interop

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPerExpert is about experts packed one by one, which 4.57 loads (TestArchitectures) and 5.x does not, as it stacks them while
// it loads: convert writes them for no target that cannot load them, and verify finds them.
func TestPerExpert(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var sources []familySource
	for _, f := range []string{"deepseek_v3", "mixtral", "qwen3_moe"} {
		sources = append(sources, familySource{Family: f, Out: filepath.Join(dir, f)})
	}
	for _, env := range environments {
		for i := range sources {
			sources[i].Out = filepath.Join(dir, env.name, sources[i].Family)
		}
		for i, a := range python[familySource, familySourceAnswer](t, env, "families_models.py", sources) {
			if a.Error != "" || a.Absent != "" {
				t.Fatalf("%s: %s%s", sources[i].Family, a.Error, a.Absent)
			}
		}
		for _, s := range sources {
			t.Run(s.Family+" saved by "+env.name, func(t *testing.T) {
				for _, target := range []string{"transformers5", "sglang"} {
					_, err := runBinary(t, "convert", s.Out, filepath.Join(t.TempDir(), "out"), "--moe", "per-expert", "--target", target)
					if err == nil || !strings.Contains(err.Error(), "experts") {
						t.Errorf("convert --moe per-expert --target %s: %v; want a refusal that names the experts", target, err)
					}
				}
				packed := convert(t, s.Out, "--moe", "per-expert", "--target", "transformers4")
				nf4kit(t, "verify", packed, "--target", "transformers4")
				_, err := runBinary(t, "verify", packed, "--target", "transformers5")
				if err == nil || !strings.Contains(err.Error(), "transformers5 cannot load it") || !strings.Contains(err.Error(), ".experts.") {
					t.Errorf("verify --target transformers5: %v; want a failure that names the experts", err)
				}
				kept := convert(t, s.Out)
				nf4kit(t, "verify", kept)
			})
		}
	}
}
