package tokens

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

type golden struct {
	Texts []string
	IDs   map[string][]struct{ Plain, Special []int32 }
}

func readGoldens(t testing.TB) (g golden) {
	t.Helper()
	raw, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func parseFile(t testing.TB, path string) *Tokenizer {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Parse(raw, path)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestGoldens: the ids of Hugging Face's tokenizers, of every kind and text.
func TestGoldens(t *testing.T) {
	g := readGoldens(t)
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(g.IDs)+1 {
		t.Fatalf("%d files, error %v, for %d tokenizers", len(files), err, len(g.IDs))
	}
	for name, want := range g.IDs {
		t.Run(name, func(t *testing.T) {
			tok := parseFile(t, filepath.Join("testdata", name+".json"))
			prefix, suffix := tok.Special()
			for round := range 2 { // the second from the cache
				for i, text := range g.Texts {
					ids, err := tok.Encode(text)
					if err != nil {
						t.Fatalf("%q: %v", text, err)
					}
					if !slices.Equal(ids, want[i].Plain) {
						t.Errorf("round %d, %q: ids (-want +got)\n%s", round, text, cmp.Diff(want[i].Plain, ids))
					}
					if got := slices.Concat(prefix, ids, suffix); !slices.Equal(got, want[i].Special) {
						t.Errorf("%q: with special tokens %v, want %v", text, got, want[i].Special)
					}
				}
			}
		})
	}
}

// TestParse: what is not known is an error that names it, never another split.
func TestParse(t *testing.T) {
	const bpe = `"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}`
	for _, c := range []struct{ file, wrong string }{
		{`{` + bpe + `}`, ""},
		{`{"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}`, ""},
		{`{` + bpe, "unexpected end"},
		{`{}`, "model"},
		{`{"model": {"type": "WordLevel"}}`, `"WordLevel"`},
		{`{"model": {"type": "BPE", "vocab": {}, "merges": []}}`, "empty"},
		{`{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}`, "-1"},
		{`{"model": {"type": "BPE", "vocab": {"a": 99999999}, "merges": []}}`, "99999999"},
		{`{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [["a", "a"]]}}`, "merge 0"},
		{`{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": ["a"]}}`, "two tokens"},
		{`{"model": {"type": "BPE", "dropout": 0.1, "vocab": {"a": 1}, "merges": []}}`, "dropout"},
		{`{"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", -1]]}}`, "unk_id"},
		{`{"model": {"type": "Unigram", "vocab": [["a"]]}}`, "score"},
		{`{"normalizer": {"type": "Precompiled"}, ` + bpe + `}`, `normalizer: expected a tokenizer that nf4kit knows, found another: type "Precompiled"`},
		{`{"normalizer": {"type": "Replace", "pattern": {}, "content": ""}, ` + bpe + `}`, "pattern"},
		{`{"pre_tokenizer": {"type": "UnicodeScripts"}, ` + bpe + `}`, `"UnicodeScripts"`},
		{`{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated"}, ` + bpe + `}`, "["},
		{`{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\p{L}&&\\p{Lu}]"}, "behavior": "Isolated"}, ` + bpe + `}`, "&&"},
		{`{"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Sideways"}, ` + bpe + `}`, "Sideways"},
		{`{"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "last"}, ` + bpe + `}`, "last"},
		{`{"post_processor": {"type": "TemplateProcessing", "single": [], "special_tokens": {}}, ` + bpe + `}`, "0 times"},
		{`{"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {}}, ` + bpe + `}`, `"x"`},
		{`{"added_tokens": [{"id": -5, "content": "x"}], ` + bpe + `}`, "-5"},
	} {
		tok, err := Parse([]byte(c.file), "tokenizer.json")
		if c.wrong == "" {
			if err != nil {
				t.Errorf("%s: %v", c.file, err)
				continue
			}
			if ids, err := tok.Encode("abba"); err != nil || !slices.Equal(ids, []int32{2, 1, 0}) || tok.Size() != 3 {
				t.Errorf("%s: abba is %v, error %v", c.file, ids, err)
			}
			continue
		}
		var input *checkpoint.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: error %v, want an InputError with %q", c.file, err, c.wrong)
		}
	}
	tok, err := Parse([]byte(`{`+bpe+`}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Encode("ab\xff"); err == nil || !strings.Contains(err.Error(), "byte 2") {
		t.Errorf("error %v of text that is no UTF-8", err)
	}
}

// FuzzTokenizer: no file makes the package panic, and ids are within the vocabulary.
func FuzzTokenizer(f *testing.F) {
	for _, name := range []string{"gpt2", "mistral", "bert", "t5"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "Hello  <s>▁ world's\n 12")
	}
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		tok, err := Parse(raw, "tokenizer.json")
		if err != nil || len(text) > 1000 {
			return
		}
		ids, err := tok.Encode(text)
		if err != nil {
			return
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Size() {
				t.Fatalf("id %d of %d", id, tok.Size())
			}
		}
	})
}
