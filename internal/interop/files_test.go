//go:build interop

package interop

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// digests returns "mode sha256" of every file under dir, by its path in dir. A symlink is a failure: what nf4kit writes are
// plain files.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			t.Errorf("%s is not a plain file: %v", path, info.Mode())
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out[name] = info.Mode().String() + " " + hex.EncodeToString(sum[:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return out
}

const manifestName = "nf4kit.json"

// manifest returns what dir's nf4kit.json says, but for the source's name.
func manifest(t *testing.T, dir string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	source, ok := m["source"].(map[string]any)
	if !ok {
		t.Fatalf("%s in %s has no source", manifestName, dir)
	}
	delete(source, "name")
	return m
}

// tensorStart returns where in a safetensors file the bytes of the first tensor whose name ends in suffix begin.
func tensorStart(t *testing.T, file []byte, suffix string) int {
	t.Helper()
	n := binary.LittleEndian.Uint64(file)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	for name, raw := range header {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		var entry struct {
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &entry); err != nil {
			t.Fatal(err)
		}
		return 8 + int(n) + entry.Offsets[0]
	}
	t.Fatalf("no tensor ends in %q", suffix)
	return 0
}

// TestSameBytes converts the same source with one worker, with eight, and again: the directories have to be identical.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	models := makeModels(t, map[string]modelCase{"qwen2-tied": {Kind: "qwen2-tied", DType: "bfloat16"}})
	for name, src := range map[string]string{"llama": llama(), "qwen2-tied": models["qwen2-tied"], "minilm": minilm(t)} {
		t.Run(name, func(t *testing.T) {
			want := digests(t, convert(t, src, "--jobs", "1"))
			for _, flags := range [][]string{{"--jobs", "8"}, {"--jobs", "8"}, nil, {"--jobs", "3", "--max-memory", "64MiB"}} {
				if diff := cmp.Diff(want, digests(t, convert(t, src, flags...))); diff != "" {
					t.Errorf("convert %v (-jobs 1 +this):\n%s", flags, diff)
				}
			}
		})
	}
}
