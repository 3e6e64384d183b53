package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A directory is read or refused; one that is read has its tensors sorted, each once and in a file of its own, and side
// files that lie within it.
func FuzzOpen(f *testing.F) {
	shard := "\x48\x00\x00\x00\x00\x00\x00\x00" + `{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}` + strings.Repeat(" ", 72-53) + "x"
	f.Add([]byte(shard), []byte(`{"metadata":{},"weight_map":{"a":"model-1.safetensors"}}`), []byte(`{"model_type":"llama"}`), "tokenizer.json")
	f.Add([]byte(shard), []byte(`{"weight_map":{"a":"../x.safetensors"}}`), []byte(`{`), "1_Pooling/config.json")
	f.Add([]byte{}, []byte{}, []byte(`[]`), "a\nb.txt")
	f.Fuzz(func(t *testing.T, shard, index, config []byte, side string) {
		dir := t.TempDir()
		write := func(name string, raw []byte) {
			if raw != nil {
				_ = os.WriteFile(filepath.Join(dir, name), raw, 0o666) // a name that no system has is none of ours
			}
		}
		write("model-1.safetensors", shard)
		write("model.safetensors.index.json", index)
		write("config.json", config)
		if filepath.IsLocal(side) && !strings.ContainsRune(side, 0) && os.MkdirAll(filepath.Join(dir, filepath.Dir(side)), 0o777) == nil {
			if _, err := os.Lstat(filepath.Join(dir, side)); err != nil {
				write(side, []byte("{}"))
			}
		}
		s, err := Open(dir)
		if err != nil {
			var in *InputError
			var format *safetensors.FormatError
			var unsupported *safetensors.UnsupportedError
			if !errors.As(err, &in) && !errors.As(err, &format) && !errors.As(err, &unsupported) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		defer s.Close()
		if !slices.IsSortedFunc(s.Tensors, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("tensors are not sorted")
		}
		for i := range s.Tensors {
			if x, ok := s.Lookup(s.Tensors[i].Name); !ok || x.Name != s.Tensors[i].Name || i > 0 && s.Tensors[i-1].Name == x.Name {
				t.Errorf("tensor %q: %v", s.Tensors[i].Name, ok)
			}
		}
		files, _, err := s.SideFiles()
		if err != nil {
			return
		}
		for _, x := range files {
			if !filepath.IsLocal(filepath.FromSlash(x.Rel)) || x.Rel == "config.json" || strings.HasSuffix(x.Rel, ".safetensors") && !strings.Contains(x.Rel, "/") {
				t.Errorf("side file %q", x.Rel)
			}
		}
	})
}
