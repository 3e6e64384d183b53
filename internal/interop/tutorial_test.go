//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTutorial does what docs/tutorial.md says where Go's own tests cannot: its Python trains an adapter on the converted
// Llama, and its next commands merge that.
func TestTutorial(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(root, "docs", "tutorial.md"))
	if err != nil {
		t.Fatal(err)
	}
	page, dir := string(raw), t.TempDir()
	code := regexp.MustCompile("(?s)```python\n(.*?)```").FindStringSubmatch(page)
	merges := regexp.MustCompile(`(?m)^    nf4kit (lora merge .*)$`).FindAllStringSubmatch(page, -1)
	if code == nil || len(merges) != 2 {
		t.Fatalf("the tutorial has %d Python blocks and %d merges, want 1 and 2", len(code)/2, len(merges))
	}
	at := map[string]string{"testdata/llama": llama(), "llama-nf4": convert(t, llama())}
	for _, name := range []string{"adapter", "merged", "merged-nf4"} {
		at[name] = filepath.Join(dir, name)
	}
	snippet := strings.NewReplacer(`"llama-nf4"`, `"`+at["llama-nf4"]+`"`, `"adapter"`, `"`+at["adapter"]+`"`).Replace(code[1])
	type question struct {
		Snippet string `json:"snippet"`
		Train   bool   `json:"train"`
	}
	type answer struct {
		Trainable int64
		Steps     int
	}
	// 16 x (in + out) of the seven Linears of four layers, 128 wide with 64 for keys and values and 448 between.
	const trained = 16 * 4 * (2*(128+128) + 2*(128+64) + 3*(128+448))
	if a := python[question, answer](t, t5, "plan_snippet.py", []question{{snippet, true}})[0]; a.Steps == 0 || a.Trainable != trained {
		t.Errorf("%d parameters trained in %d steps, want %d in some", a.Trainable, a.Steps, trained)
	}
	for _, m := range merges {
		args := strings.Fields(m[1])
		for i, a := range args {
			if path, ok := at[a]; ok {
				args[i] = path
			}
		}
		nf4kit(t, args...)
	}
	nf4kit(t, "verify", at["merged-nf4"])
}
