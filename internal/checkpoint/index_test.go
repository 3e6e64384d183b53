package checkpoint

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// goldenDir holds what save_pretrained wrote (nf4/bnb/testdata/make_goldens.py).
var goldenDir = filepath.Join("..", "..", "nf4", "bnb", "testdata")

func TestIndexGolden(t *testing.T) {
	path := filepath.Join(goldenDir, "fp4-shards", "model.safetensors.index.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ix, err := ParseIndex(path, raw)
	if err != nil {
		t.Fatal(err)
	}
	if ix.TotalParameters != 17568 || ix.TotalSize != 15044 || !ix.HasMetadata || len(ix.WeightMap) != 63 {
		t.Errorf("index %+v", ix)
	}
	if diff := cmp.Diff(string(raw), string(ix.Encode())); diff != "" {
		t.Errorf("encode (-save_pretrained +got):\n%s", diff)
	}
	want := []string{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"}
	if diff := cmp.Diff(want, ix.Shards()); diff != "" {
		t.Errorf("shards (-want +got):\n%s", diff)
	}
}

// TestOpenGolden opens what save_pretrained wrote, index and all.
func TestOpenGolden(t *testing.T) {
	for dir, tensors := range map[string]int{"nf4-dq": 91, "fp4-shards": 63} {
		s, err := Open(filepath.Join(goldenDir, dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Tensors) != tensors || len(s.Warnings) > 0 {
			t.Errorf("%s: %d tensors, warnings %v", dir, len(s.Tensors), s.Warnings)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The text is that of Python 3.11: json.dumps({"é\u2028😀\x7f\"\\\b\f\n\r\t\x01/<": "m.safetensors"}, indent=2).
func TestIndexStrings(t *testing.T) {
	ix := &Index{WeightMap: map[string]string{"\u00e9\u2028\U0001f600\x7f\"\\\b\f\n\r\t\x01/<": "m.safetensors"}}
	want := `{
  "metadata": {
    "total_parameters": 0,
    "total_size": 0
  },
  "weight_map": {
    "\u00e9\u2028\ud83d\ude00\u007f\"\\\b\f\n\r\t\u0001/<": "m.safetensors"
  }
}
`
	if diff := cmp.Diff(want, string(ix.Encode())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	back, err := ParseIndex("i", ix.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ix.WeightMap, back.WeightMap); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if got := string((&Index{}).Encode()); got != "{\n  \"metadata\": {\n    \"total_parameters\": 0,\n    \"total_size\": 0\n  },\n  \"weight_map\": {}\n}\n" {
		t.Errorf("empty: %s", got)
	}
}

func TestIndexMetadata(t *testing.T) {
	for _, c := range []struct {
		metadata string
		want     Index
	}{
		{`{"total_size": 7, "total_parameters": 8}`, Index{TotalSize: 7, TotalParameters: 8, HasMetadata: true}},
		{`{"total_size": 7.0, "other": [1, {"a": 2}]}`, Index{HasMetadata: true}},
		{`null`, Index{}},
		{`[1]`, Index{}},
	} {
		got, err := ParseIndex("i", []byte(`{"metadata": `+c.metadata+`, "more": {"x": [1]}, "weight_map": {}}`))
		if err != nil {
			t.Errorf("%s: %v", c.metadata, err)
			continue
		}
		c.want.WeightMap = map[string]string{}
		if diff := cmp.Diff(&c.want, got, cmpopts.IgnoreUnexported(Index{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.metadata, diff)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join(goldenDir, "fp4-shards", "model.safetensors.index.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"weight_map": {"a": "b.safetensors", "\u00e9": "c.safetensors"}, "metadata": {"total_size": 1e3}}`))
	f.Add([]byte(`{"weight_map": {"a": "../b.safetensors"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ix, err := ParseIndex("i", raw)
		if err != nil {
			var in *InputError
			if !errors.As(err, &in) {
				t.Fatalf("error %v is no *InputError", err)
			}
			return
		}
		for _, shard := range ix.Shards() {
			if !filepath.IsLocal(shard) || path.Clean(shard) != shard || filepath.Ext(shard) != ".safetensors" {
				t.Fatalf("shard %q", shard)
			}
		}
		back, err := ParseIndex("i", ix.Encode())
		if err != nil {
			t.Fatalf("%s: %v", ix.Encode(), err)
		}
		if diff := cmp.Diff(ix.WeightMap, back.WeightMap); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}
