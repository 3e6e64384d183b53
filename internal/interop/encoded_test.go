//go:build interop

package interop

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// encodedCase is one question to encoded_sources.py.
type encodedCase struct {
	Kind    string `json:"kind"`
	Source  string `json:"source"`
	Encoded string `json:"encoded"`
	Decoded string `json:"decoded"`
}

type encodedAnswer struct {
	Error   string `json:"error"`
	Encoded int    `json:"encoded"`
}

// TestEncodedSources converts models whose weights are FP8 or MXFP4. The result is to the byte that of the same model decoded
// by the reference, but for the manifest, which names the source.
func TestEncodedSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct {
		kind, family string
		tensors      int
		flags        []string
	}{
		{"fp8", "", 4 * 7, nil}, // several blocks a matrix, the last ones not whole
		{"fp8", "qwen3", 2 * 7, nil},
		{"fp8", "deepseek_v3", 5 + 5 + 3 + 3 + 4*3 + 1, nil},
		{"fp8", "deepseek_v3", 5 + 5 + 3 + 3 + 4*3 + 1, []string{"--target", "transformers4", "--moe", "per-expert", "--double-quant=false"}},
		{"mxfp4", "gpt_oss", 2 * 2, nil},
	}
	var sources []familySource
	var cases []encodedCase
	for i, tt := range tests {
		at := func(name string) string { return filepath.Join(dir, string(rune('a'+i)), name) }
		c := encodedCase{tt.kind, at("source"), at("encoded"), at("decoded")}
		if tt.family == "" {
			c.Source = llama()
		} else {
			sources = append(sources, familySource{Family: tt.family, Out: c.Source})
		}
		cases = append(cases, c)
	}
	for _, a := range python[familySource, familySourceAnswer](t, t4, "families_models.py", sources) {
		if a.Error != "" {
			t.Fatal(a.Error)
		}
	}
	for i, a := range python[encodedCase, encodedAnswer](t, t4, "encoded_sources.py", cases) {
		tt := tests[i]
		t.Run(tt.kind+"-"+filepath.Base(tt.family), func(t *testing.T) {
			if a.Error != "" {
				t.Fatal(a.Error)
			}
			if a.Encoded != tt.tensors {
				t.Errorf("%d tensors are encoded, want %d", a.Encoded, tt.tensors)
			}
			got, want := convert(t, cases[i].Encoded, tt.flags...), convert(t, cases[i].Decoded, tt.flags...)
			for _, name := range []string{"model.safetensors", "config.json"} {
				g, err := os.ReadFile(filepath.Join(got, name))
				if err != nil {
					t.Fatal(err)
				}
				w, err := os.ReadFile(filepath.Join(want, name))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(g, w) {
					t.Errorf("%s of the encoded source has %d bytes, of the decoded one %d, and they differ", name, len(g), len(w))
				}
			}
		})
	}
}
