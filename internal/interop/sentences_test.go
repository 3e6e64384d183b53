//go:build interop

package interop

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sentenceCase is one question to sentences.py.
type sentenceCase struct {
	Out       string `json:"out,omitempty"`
	Module    string `json:"module"`
	Source    string `json:"source,omitempty"`
	Converted string `json:"converted,omitempty"`
	Plain     string `json:"plain"`
}

type sentenceAnswer struct {
	Error          string  `json:"error"`
	Quantized      int     `json:"quantized"`
	SameSet        bool    `json:"same_set"`
	Equal          bool    `json:"equal"`
	Cosine         float64 `json:"cosine"`
	Dense          bool    `json:"dense"`
	PlainCosine    float64 `json:"plain_cosine"`
	PlainQuantized int     `json:"plain_quantized"`
}

// TestSentenceTransformers converts directories of sentence-transformers: a small model with a dense layer, the same with the
// transformer in a module of its own, and all-MiniLM-L6-v2.
func TestSentenceTransformers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, a := range python[sentenceCase, sentenceAnswer](t, t5, "sentences.py", []sentenceCase{
		{Out: at("small")}, {Out: at("old"), Module: "0_Transformer"},
	}) {
		if a.Error != "" {
			t.Fatal(a.Error)
		}
	}
	cases := []sentenceCase{
		{Source: at("small"), Converted: convert(t, at("small"), "--double-quant=false"), Plain: at("plain")},
		{Source: at("old"), Converted: at("old4"), Module: "0_Transformer"},
		{Source: minilm(t), Converted: convert(t, minilm(t), "--double-quant=false")},
	}
	nf4kit(t, "verify", cases[0].Converted, "--source", cases[0].Source)
	nf4kit(t, "dequantize", cases[0].Converted, cases[0].Plain)

	// The root of the old layout has no weights; its module is converted into a copy.
	if _, err := runBinary(t, "convert", at("old"), at("nowhere")); err == nil || !strings.Contains(err.Error(), "whose transformer is in 0_Transformer") {
		t.Errorf("convert of the root: %v; want a refusal that names the module", err)
	}
	if err := os.CopyFS(at("old4"), os.DirFS(at("old"))); err != nil {
		t.Fatal(err)
	}
	nf4kit(t, "convert", filepath.Join(at("old"), "0_Transformer"), filepath.Join(at("old4"), "0_Transformer"), "--double-quant=false", "--force")

	// What is not the transformer is copied as it is.
	same := 0
	err := filepath.WalkDir(cases[0].Source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(cases[0].Source, path)
		if err != nil || rel == "config.json" || rel == "model.safetensors" || rel == "README.md" {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join(cases[0].Converted, rel)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not as in the source: %v", rel, err)
		}
		same++
		return nil
	})
	if err != nil || same < 8 {
		t.Errorf("%d files compared: %v", same, err)
	}

	for i, a := range python[sentenceCase, sentenceAnswer](t, t5, "sentences.py", cases) {
		name := filepath.Base(cases[i].Source)
		t.Run(name, func(t *testing.T) {
			if a.Error != "" {
				t.Fatal(a.Error)
			}
			if !a.SameSet || a.Quantized == 0 || !a.Equal {
				t.Errorf("%d modules quantized, the same as by bitsandbytes: %v, equal embeddings: %v", a.Quantized, a.SameSet, a.Equal)
			}
			if a.Dense == strings.Contains(name, "model") {
				t.Errorf("dense layer: %v", a.Dense)
			}
			if a.Cosine < 0.9 {
				t.Errorf("cosine with the embeddings of the source %g", a.Cosine)
			}
			if cases[i].Plain != "" && (a.PlainQuantized != 0 || a.PlainCosine < 0.999) {
				t.Errorf("dequantized: %d modules in 4 bits, cosine %g", a.PlainQuantized, a.PlainCosine)
			}
			t.Logf("%d modules quantized; cosine with the source's embeddings %.4f", a.Quantized, a.Cosine)
		})
	}
}
