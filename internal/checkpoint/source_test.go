package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// writeShard writes a safetensors file of [4] BF16 tensors whose bytes count up.
func writeShard(t testing.TB, path string, tensors ...string) {
	t.Helper()
	var entries []safetensors.Entry
	for _, name := range tensors {
		entries = append(entries, safetensors.Entry{Name: name, DType: safetensors.BF16, Shape: []int64{4}})
	}
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := safetensors.NewWriter(f, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.WriteAt(e.Name, []byte{0, 1, 2, 3, 4, 5, 6, 7}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// write puts files into dir, making directories as needed.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func symlink(t testing.TB, target, link string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		if runtime.GOOS == "windows" {
			t.Skip("no right to make symbolic links")
		}
		t.Fatal(err)
	}
}

const (
	shard1 = "model-00001-of-00002.safetensors"
	shard2 = "model-00002-of-00002.safetensors"
)

// sharded makes a model of two shards: a and b in the first, c in the second.
func sharded(t testing.TB, dir string) {
	t.Helper()
	write(t, dir, map[string]string{
		"config.json":                  `{"model_type": "llama"}`,
		"model.safetensors.index.json": `{"metadata": {"total_size": 24}, "weight_map": {"c": "` + shard2 + `", "a": "` + shard1 + `", "b": "` + shard1 + `"}}`,
	})
	writeShard(t, filepath.Join(dir, shard1), "a", "b")
	writeShard(t, filepath.Join(dir, shard2), "c")
}

// twoCopies is a model of two shards that both hold b, with different contents; the index names the shard given for
// it, or none.
func twoCopies(t testing.TB, dir, named string) {
	t.Helper()
	line := ""
	if named != "" {
		line = `, "b": "` + named + `"`
	}
	sharded(t, dir)
	write(t, dir, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"c": "` + shard2 + `", "a": "` + shard1 + `"` + line + `}}`})
	writeShard(t, filepath.Join(dir, shard2), "c", "b")
	path := filepath.Join(dir, shard1)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-2]++ // of b, which comes after a
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
}

func tensorNames(s *Source) []string {
	var names []string
	for _, t := range s.Tensors {
		names = append(names, t.Shard.Name+":"+t.Name)
	}
	return names
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		name    string
		make    func(t *testing.T, dir string) (path string)
		dir     string // below the temporary directory
		base    string
		tensors []string
		config  string
		warn    []string
	}{
		{name: "single", make: func(t *testing.T, dir string) string {
			write(t, dir, map[string]string{"config.json": "{}"})
			writeShard(t, filepath.Join(dir, "model.safetensors"), "b", "a")
			return dir
		}, base: "model", tensors: []string{"model.safetensors:a", "model.safetensors:b"}, config: "{}"},
		{name: "sharded", make: func(t *testing.T, dir string) string { sharded(t, dir); return dir },
			base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`},
		{name: "diffusers", make: func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, "diffusion_pytorch_model.safetensors"), "a")
			return dir
		}, base: "diffusion_pytorch_model", tensors: []string{"diffusion_pytorch_model.safetensors:a"}},
		{name: "index of the single file", make: func(t *testing.T, dir string) string {
			write(t, dir, map[string]string{"model.safetensors.index.json": `{"weight_map": {"a": "model.safetensors"}}`})
			writeShard(t, filepath.Join(dir, "model.safetensors"), "a")
			return dir
		}, base: "model", tensors: []string{"model.safetensors:a"},
			warn: []string{"DIR/model.safetensors.index.json: no metadata object, which transformers requires"}},
		{name: "strays", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			writeShard(t, filepath.Join(dir, "consolidated.safetensors"), "a")
			writeShard(t, filepath.Join(dir, "model-00003-of-00003.safetensors"), "a")
			return dir
		}, base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR/consolidated.safetensors: not part of the checkpoint, left out",
				"DIR/model-00003-of-00003.safetensors: not part of the checkpoint, left out"}},
		{name: "index with ./ and a folder", make: func(t *testing.T, dir string) string {
			write(t, dir, map[string]string{"sub/x": "", "model.safetensors.index.json": `{"metadata": {}, "weight_map": {"a": "./a.safetensors", "b": "sub//b.safetensors", "c": "a.safetensors"}}`})
			writeShard(t, filepath.Join(dir, "a.safetensors"), "a", "c")
			writeShard(t, filepath.Join(dir, "sub", "b.safetensors"), "b")
			return dir
		}, base: "model", tensors: []string{"a.safetensors:a", "sub/b.safetensors:b", "a.safetensors:c"}},
		{name: "tensors that no shard has", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			write(t, dir, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"a": "` + shard1 + `", "b": "` + shard1 + `", "c": "` + shard2 +
				`", "v": "` + shard2 + `", "w": "` + shard2 + `", "x": "` + shard2 + `", "y": "` + shard2 + `"}}`})
			return dir
		}, base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR/model.safetensors.index.json: weight_map names v, w, x and 1 more, which no shard has: left out"}},
		{name: "tensor that the index lacks, tensor in another shard, tensor twice", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			write(t, dir, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"a": "x.safetensors", "a": "` + shard2 + `", "c": "` + shard2 + `", "a": "` + shard2 + `"}}`})
			writeShard(t, filepath.Join(dir, shard2), "c", "d")
			if err := os.Rename(filepath.Join(dir, shard1), filepath.Join(dir, "other.safetensors")); err != nil {
				t.Fatal(err)
			}
			writeShard(t, filepath.Join(dir, shard2), "c", "a", "d")
			return dir
		}, base: "model", tensors: []string{shard2 + ":a", shard2 + ":c", shard2 + ":d"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR/model.safetensors.index.json: weight_map names a more than once; the last line counts",
				"DIR/model.safetensors.index.json: weight_map lacks d, which transformers 4.57 would not load from it: taken from the shards",
				"DIR/other.safetensors: not part of the checkpoint, left out"}},
		{name: "tensor in another shard", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			write(t, dir, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"a": "` + shard1 + `", "b": "` + shard2 + `", "c": "` + shard2 + `"}}`})
			return dir
		}, base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR/model.safetensors.index.json: weight_map has b in another shard than the one that holds it: taken from where it is"}},
		{name: "overlay", make: func(t *testing.T, dir string) string { twoCopies(t, dir, shard2); return dir },
			base: "model", tensors: []string{shard1 + ":a", shard2 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR: two shards hold b: taken from the last by name, as transformers does"}},
		{name: "equal copies", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			writeShard(t, filepath.Join(dir, shard2), "b", "c")
			return dir
		}, base: "model", tensors: []string{shard1 + ":a", shard2 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR: two shards hold b: taken from the last by name, as transformers does",
				"DIR/model.safetensors.index.json: weight_map has b in another shard than the one that holds it: taken from where it is"}},
		{name: "the last by spelling", make: func(t *testing.T, dir string) string {
			twoCopies(t, dir, "./"+shard2) // which comes before shard1 as strings go
			write(t, dir, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"c": "./` + shard2 + `", "a": "` + shard1 + `", "b": "` + shard1 + `"}}`})
			return dir
		}, base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`,
			warn: []string{"DIR: two shards hold b: taken from the last by name, as transformers does"}},
		{name: "bare file", make: func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, "x.safetensors"), "a")
			return filepath.Join(dir, "x.safetensors")
		}, base: "model", tensors: []string{"x.safetensors:a"}},
		{name: "bare file without the extension", make: func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, "blob"), "a")
			return filepath.Join(dir, "blob")
		}, base: "model", tensors: []string{"blob:a"}},
		{name: "file with a config beside it", make: func(t *testing.T, dir string) string {
			write(t, dir, map[string]string{"config.json": `{"a": 1}`})
			writeShard(t, filepath.Join(dir, "model.safetensors"), "a")
			return filepath.Join(dir, "model.safetensors")
		}, base: "model", tensors: []string{"model.safetensors:a"}, config: `{"a": 1}`},
		{name: "file named like a shard, no index", make: func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, shard1), "a")
			return filepath.Join(dir, shard1)
		}, base: "model", tensors: []string{shard1 + ":a"}, warn: []string{"DIR/" + shard1 + ": by its name one of 2 shards; the others are left out"}},
		{name: "file beside an index of others", make: func(t *testing.T, dir string) string {
			sharded(t, dir)
			writeShard(t, filepath.Join(dir, "model.safetensors"), "z")
			return filepath.Join(dir, "model.safetensors")
		}, base: "model", tensors: []string{"model.safetensors:z"}, config: `{"model_type": "llama"}`},
		{name: "hub snapshot", make: func(t *testing.T, dir string) string { hub(t, dir); return filepath.Join(dir, "snapshots", "abc123") },
			dir: "snapshots/abc123", base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`},
		{name: "hub repository", make: func(t *testing.T, dir string) string { hub(t, dir); return dir },
			dir: "snapshots/abc123", base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`},
		{name: "hub repository without refs", make: func(t *testing.T, dir string) string {
			repo := filepath.Join(dir, "models--org--name")
			hub(t, repo)
			if err := os.RemoveAll(filepath.Join(repo, "refs")); err != nil {
				t.Fatal(err)
			}
			return repo
		}, dir: "models--org--name/snapshots/abc123", base: "model", tensors: []string{shard1 + ":a", shard1 + ":b", shard2 + ":c"}, config: `{"model_type": "llama"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := c.make(t, dir)
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if want := filepath.Join(dir, filepath.FromSlash(c.dir)); s.Dir != want || s.Path != path || s.Base != c.base {
				t.Errorf("dir %s, path %s, base %s; want %s, %s, %s", s.Dir, s.Path, s.Base, want, path, c.base)
			}
			if info, _ := os.Stat(path); s.IsFile == info.IsDir() {
				t.Errorf("IsFile is %v", s.IsFile)
			}
			if diff := cmp.Diff(c.tensors, tensorNames(s)); diff != "" {
				t.Errorf("tensors (-want +got):\n%s", diff)
			}
			if string(s.Config) != c.config {
				t.Errorf("config %q, want %q", s.Config, c.config)
			}
			var warn []string
			for _, w := range s.Warnings {
				warn = append(warn, filepath.ToSlash(strings.ReplaceAll(w, dir, "DIR")))
			}
			if diff := cmp.Diff(c.warn, warn); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			for _, tensor := range s.Tensors {
				p := make([]byte, 8)
				if _, err := tensor.ReadAt(p, 0); err != nil || p[7] != 7 {
					t.Errorf("read %s: %v %v", tensor.Name, p, err)
				}
				if got, ok := s.Lookup(tensor.Name); !ok || got.Tensor != tensor.Tensor {
					t.Errorf("lookup %s: %v %v", tensor.Name, got, ok)
				}
			}
			if _, ok := s.Lookup("nonesuch"); ok {
				t.Error("found a tensor that is not there")
			}
			if want := int64(8 * len(s.Tensors)); s.TensorBytes() != want {
				t.Errorf("%d bytes, want %d", s.TensorBytes(), want)
			}
		})
	}
}

// hub lays dir out as huggingface_hub does: blobs, snapshots of links, refs.
func hub(t testing.TB, dir string) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs")
	if err := os.MkdirAll(blobs, 0o777); err != nil {
		t.Fatal(err)
	}
	sharded(t, blobs)
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(blobs, e.Name()), filepath.Join(blobs, "sha-"+e.Name())); err != nil {
			t.Fatal(err)
		}
		symlink(t, filepath.Join("..", "..", "blobs", "sha-"+e.Name()), filepath.Join(dir, "snapshots", "abc123", e.Name()))
	}
	write(t, dir, map[string]string{"refs/main": "abc123\n", "snapshots/older/config.json": "{}"})
	if strings.HasPrefix(filepath.Base(dir), "models--") {
		if err := os.RemoveAll(filepath.Join(dir, "snapshots", "older")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	index := func(text string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			sharded(t, dir)
			write(t, dir, map[string]string{"model.safetensors.index.json": text})
			return dir
		}
	}
	files := func(names ...string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			for _, name := range names {
				write(t, dir, map[string]string{name: "content that is long enough to look at"})
			}
			return dir
		}
	}
	file := func(name, content string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			write(t, dir, map[string]string{name: content})
			return filepath.Join(dir, name)
		}
	}
	config := func(text string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			sharded(t, dir)
			write(t, dir, map[string]string{"config.json": text})
			return dir
		}
	}
	const ix = "DIR/model.safetensors.index.json: "
	for _, c := range []struct {
		name       string
		make       func(t *testing.T, dir string) string
		want, hint string
	}{
		{"missing shard", func(t *testing.T, dir string) string {
			sharded(t, dir)
			if err := os.Remove(filepath.Join(dir, shard2)); err != nil {
				t.Fatal(err)
			}
			return dir
		}, ix + "expected the shards it names, found " + shard2 + " missing: file does not exist", "fetch the missing shard"},
		{"shard is a link to nothing", func(t *testing.T, dir string) string {
			sharded(t, dir)
			if err := os.Remove(filepath.Join(dir, shard2)); err != nil {
				t.Fatal(err)
			}
			symlink(t, "nowhere", filepath.Join(dir, shard2))
			return dir
		}, "DIR/" + shard2 + ": expected a file, found a symbolic link to nothing", "the download is incomplete: fetch the model again"},
		{"shard is a directory", func(t *testing.T, dir string) string {
			sharded(t, dir)
			if err := os.Remove(filepath.Join(dir, shard2)); err != nil {
				t.Fatal(err)
			}
			write(t, dir, map[string]string{shard2 + "/x": ""})
			return dir
		}, "DIR/" + shard2 + ": expected a regular file, found a directory", ""},
		{"parent directory", index(`{"weight_map": {"a": "../x.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "../x.safetensors", which leads out of the directory`, ""},
		{"absolute", index(`{"weight_map": {"a": "/etc/x.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "/etc/x.safetensors", which leads out of the directory`, ""},
		{"Windows path", index(`{"weight_map": {"a": "C:\\x.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "C:\\x.safetensors", which has a separator of another system in it`, ""},
		{"Windows drive", index(`{"weight_map": {"a": "C:x.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "C:x.safetensors", which has a separator of another system in it`, ""},
		{"dots", index(`{"weight_map": {"a": ".."}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "..", which leads out of the directory`, ""},
		{"another extension", index(`{"weight_map": {"a": "model.bin"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "model.bin", which is no .safetensors file`, ""},
		{"empty name", index(`{"weight_map": {"a": ""}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "", which is empty`, ""},
		{"NUL in a name", index(`{"weight_map": {"a": "a\u0000.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "a\x00.safetensors", which has control characters in it`, ""},
		{"long name", index(`{"weight_map": {"a": "` + strings.Repeat("x", 300) + `.safetensors"}}`),
			ix + `a: expected the name of a .safetensors file in the same directory or below it, found "` + strings.Repeat("x", 120) + `...", which is too long`, ""},
		{"shard is a number", index(`{"weight_map": {"a": 1}}`), ix + "a: expected the name of a shard, found a number", ""},
		{"no weight_map", index(`{"metadata": {}}`), ix + "expected a weight_map object, found none", "the file is no index of safetensors shards: fetch it again"},
		{"weight_map is a list", index(`{"weight_map": []}`), ix + "weight_map: expected a weight_map object, found an array", ""},
		{"empty weight_map", index(`{"weight_map": {}}`), ix + "expected tensors in weight_map, found none", ""},
		{"index not JSON", index(`{"weight_map": {`), ix + "expected valid JSON, found malformed text at byte 16", "fetch the file again"},
		{"index with text after", index(`{"weight_map": {"a": "x.safetensors"}} x`), ix + "expected one JSON object, found more text after it", ""},
		{"index is a list", index(`[]`), ix + "expected an object, found an array", ""},
		{"tensor in two shards, the index for the first", func(t *testing.T, dir string) string {
			twoCopies(t, dir, shard1)
			return dir
		}, "DIR/" + shard2 + ": b: expected each tensor in one shard, found it in " + shard1 + " too, with another content",
			"the index names " + shard1 + " and transformers reads " + shard2 + ": remove the copy that is stale"},
		{"tensor in two shards, none in the index", func(t *testing.T, dir string) string {
			twoCopies(t, dir, "")
			return dir
		}, "DIR/" + shard2 + ": b: expected each tensor in one shard, found it in " + shard1 + " too, with another content",
			"point its line in the index to the copy that is meant, or fetch the directory again into an empty one"},
		{"folder that is a link out of the directory", func(t *testing.T, dir string) string {
			outside := filepath.Join(dir, "outside")
			model := filepath.Join(dir, "model")
			writeShard(t, filepath.Join(dir, "x.safetensors"), "a")
			write(t, outside, map[string]string{"y": ""})
			write(t, model, map[string]string{"model.safetensors.index.json": `{"metadata": {}, "weight_map": {"a": "sub/x.safetensors"}}`})
			symlink(t, outside, filepath.Join(model, "sub"))
			return model
		}, "DIR/model/sub: expected a file of the model directory, found a symbolic link to DIR/outside, outside of it",
			"replace the link by the file itself: cp -L follows links"},
		{"config is a link out of the directory", func(t *testing.T, dir string) string {
			model := filepath.Join(dir, "model")
			write(t, dir, map[string]string{"c.json": "{}", "model/x": ""})
			writeShard(t, filepath.Join(model, "model.safetensors"), "a")
			symlink(t, filepath.Join(dir, "c.json"), filepath.Join(model, "config.json"))
			return model
		}, "DIR/model/config.json: expected a file of the model directory, found a symbolic link to DIR/c.json, outside of it",
			"replace the link by the file itself: cp -L follows links"},
		{"config is a link to nothing", func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, "model.safetensors"), "a")
			symlink(t, "../../blobs/0", filepath.Join(dir, "config.json"))
			return dir
		}, "DIR/config.json: expected a file, found a symbolic link to nothing", "the download is incomplete: fetch the model again"},
		{"single file beside an index", func(t *testing.T, dir string) string {
			sharded(t, dir)
			writeShard(t, filepath.Join(dir, "model.safetensors"), "a")
			return dir
		}, "DIR/model.safetensors: expected no single file beside an index of other shards, found both, which loaders choose between differently",
			"remove the one that is stale, or give the file itself as the source"},
		{"lone shard", func(t *testing.T, dir string) string { sharded(t, dir); return filepath.Join(dir, shard1) },
			"DIR/" + shard1 + ": expected a whole model, found one of the 2 shards of model.safetensors.index.json", "give the directory, DIR"},
		{"index itself", func(t *testing.T, dir string) string {
			sharded(t, dir)
			return filepath.Join(dir, "model.safetensors.index.json")
		}, ix + "expected a model directory or a .safetensors file, found an index", "give its directory, DIR"},
		{"pickles", files("config.json", "pytorch_model.bin"), "DIR: expected model.safetensors or model.safetensors.index.json, found only pickled weights (pytorch_model.bin)", pickleHint},
		{"pickle", files("model.PT"), "DIR: expected model.safetensors or model.safetensors.index.json, found only pickled weights (model.PT)", pickleHint},
		{"GGUF directory", files("m.gguf"), "DIR: expected model.safetensors or model.safetensors.index.json, found GGUF weights (m.gguf)", "fetch the original model in safetensors"},
		{"other frameworks", files("flax_model.msgpack"), "DIR: expected model.safetensors or model.safetensors.index.json, found weights of another framework (flax_model.msgpack)", "fetch the original model in safetensors"},
		{"adapter", files("adapter_config.json", "adapter_model.safetensors"),
			"DIR: expected model.safetensors or model.safetensors.index.json, found a PEFT adapter (adapter_config.json)", "nf4kit lora inspect shows it, nf4kit lora merge merges it into its base"},
		{"pipeline", files("model_index.json"), "DIR: expected model.safetensors or model.safetensors.index.json, found a diffusers pipeline (model_index.json)",
			"give one of its model directories, such as transformer"},
		{"sentence-transformers, old", files("0_Transformer", "modules.json"),
			"DIR: expected model.safetensors or model.safetensors.index.json, found a sentence-transformers model whose transformer is in 0_Transformer",
			"convert that directory, into its place in a copy of the whole"},
		{"Mistral naming", files("consolidated.safetensors", "params.json"),
			"DIR: expected model.safetensors or model.safetensors.index.json, found weights in Mistral's own naming (consolidated.safetensors)", "fetch the repository's model*.safetensors files"},
		{"shards without an index", files(shard1, shard2), "DIR: expected model.safetensors or model.safetensors.index.json, found shards without an index (" + shard1 + ")",
			"fetch model.safetensors.index.json too"},
		{"other name", files("weights.safetensors"), "DIR: expected model.safetensors or model.safetensors.index.json, found safetensors files under other names (weights.safetensors)",
			"give the file itself as the source"},
		{"nothing", files(), "DIR: expected model.safetensors or model.safetensors.index.json, found an empty directory", ""},
		{"no weights", files("README.md"), "DIR: expected model.safetensors or model.safetensors.index.json, found neither", ""},
		{"LFS pointer", file("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
			"DIR/model.safetensors: expected a safetensors file, found a Git LFS pointer", "run git lfs pull in its repository"},
		{"GGUF file", file("m.gguf", "GGUF\x03\x00\x00\x00"+strings.Repeat("\x00", 32)), "DIR/m.gguf: expected a safetensors file, found a GGUF file", "give the original model in safetensors"},
		{"zipped pickle", file("m.bin", "PK\x03\x04"+strings.Repeat("\x00", 32)), "DIR/m.bin: expected a safetensors file, found pickled weights", pickleHint},
		{"pickle file", file("m.pt", "\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "DIR/m.pt: expected a safetensors file, found pickled weights", pickleHint},
		{"HTML", file("m.safetensors", "<!DOCTYPE html><html>404"), "DIR/m.safetensors: expected a safetensors file, found a web page", "the download went wrong: fetch the file again"},
		{"HDF5", file("m.h5", "\x89HDF\r\n\x1a\n"+strings.Repeat("\x00", 32)), "DIR/m.h5: expected a safetensors file, found an HDF5 file", "give the original model in safetensors"},
		{"config not JSON", config(`{"a": `), "DIR/config.json: expected valid JSON, found malformed text at byte 6", "fetch the file again"},
		{"config with half of Python's numbers", config(`{"a": 1NaN}`), "DIR/config.json: expected valid JSON, found malformed text at byte 7", "fetch the file again"},
		{"config empty", config(``), "DIR/config.json: expected a JSON object, found nothing", ""},
		{"config a list", config(`[]`), "DIR/config.json: expected a JSON object, found an array", ""},
		{"config key twice", config(`{"text_config": {"a": 1, "a": 2}}`), "DIR/config.json: text_config.a: expected each key once, found it twice", ""},
		{"config too deep", config(`{"a": ` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`), "DIR/config.json: expected at most 100 levels, found deeper nesting", ""},
		{"config far too deep", config(strings.Repeat(`{"a":`, 200000)), "DIR/config.json: expected at most 100 levels, found deeper nesting", ""},
		{"config too large", config(`{"a": "` + strings.Repeat("x", MaxConfigSize) + `"}`), "DIR/config.json: expected at most 8388608 bytes, found more", ""},
		{"config with many nested ones", config(`{"a": [` + strings.Repeat(`{"x_config": 1},`, 64) + `{"x_config": 1}]}`),
			"DIR/config.json: expected at most 64 nested configs, found more", ""},
		{"config with text after", config(`{} {}`), "DIR/config.json: expected one JSON object, found more text after it", ""},
		{"config a directory", func(t *testing.T, dir string) string {
			writeShard(t, filepath.Join(dir, "model.safetensors"), "a")
			write(t, dir, map[string]string{"config.json/x": ""})
			return dir
		}, "DIR/config.json: expected a regular file, found a directory", ""},
		{"hub ref out of the cache", func(t *testing.T, dir string) string {
			hub(t, dir)
			write(t, dir, map[string]string{"refs/main": "../../x"})
			return dir
		}, `DIR/refs/main: expected a commit, found "../../x"`, ""},
		{"hub ref to nothing", func(t *testing.T, dir string) string {
			hub(t, dir)
			write(t, dir, map[string]string{"refs/main": "fff"})
			return dir
		}, "DIR/refs/main: expected the snapshot fff, found none of that name", "download the model again"},
		{"hub without refs and two snapshots", func(t *testing.T, dir string) string {
			hub(t, dir)
			if err := os.Remove(filepath.Join(dir, "refs", "main")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "DIR: expected refs/main or a single snapshot, found no refs/main and 2 snapshots", "give one of the directories in DIR/snapshots"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(c.make(t, dir))
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			var in *InputError
			if !errors.As(err, &in) {
				t.Fatalf("error %v (%T) is no *InputError", err, err)
			}
			clean := func(s string) string { return filepath.ToSlash(strings.ReplaceAll(s, dir, "DIR")) }
			got := clean(err.Error())
			if c.name == "hub ref to nothing" {
				got, _, _ = strings.Cut(got, ": stat ")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.hint, clean(in.Hint)); diff != "" {
				t.Errorf("hint (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOpenBroken: what safetensors finds wrong keeps its own type.
func TestOpenBroken(t *testing.T) {
	dir := t.TempDir()
	sharded(t, dir)
	if err := os.Truncate(filepath.Join(dir, shard2), 40); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir)
	var fe *safetensors.FormatError
	if !errors.As(err, &fe) || fe.File != filepath.Join(dir, shard2) {
		t.Errorf("error %v", err)
	}
}

// TestOpenUnreadable: not being able to read is no fault of the content.
func TestOpenUnreadable(t *testing.T) {
	dir := t.TempDir()
	var in *InputError
	if _, err := Open(filepath.Join(dir, "nonesuch")); !errors.Is(err, fs.ErrNotExist) || errors.As(err, &in) {
		t.Errorf("missing: %v", err)
	}
	if runtime.GOOS == "windows" || os.Getuid() == 0 {
		t.Skip("every file is readable")
	}
	sharded(t, dir)
	if err := os.Chmod(filepath.Join(dir, shard1), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, fs.ErrPermission) || errors.As(err, &in) {
		t.Errorf("unreadable shard: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	sharded(t, dir)
	write(t, dir, map[string]string{"quantize_config.json": "{}"})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if raw, err := s.ReadFile("quantize_config.json", 2); string(raw) != "{}" || err != nil {
		t.Errorf("%q %v", raw, err)
	}
	var in *InputError
	if _, err := s.ReadFile("quantize_config.json", 1); !errors.As(err, &in) || in.Expected != "at most 1 bytes" {
		t.Errorf("too large: %v", err)
	}
	outside := t.TempDir()
	write(t, outside, map[string]string{"secret": "x"})
	symlink(t, filepath.Join(outside, "secret"), filepath.Join(dir, "out.json"))
	symlink(t, "nowhere", filepath.Join(dir, "dangling.json"))
	symlink(t, "quantize_config.json", filepath.Join(dir, "inner.json"))
	for name, found := range map[string]string{"out.json": "a symbolic link to ", "dangling.json": "a symbolic link to nothing", "../x": `"../x"`} {
		if raw, err := s.ReadFile(name, 10); !errors.As(err, &in) || !strings.HasPrefix(in.Found, found) {
			t.Errorf("%s: %q %v", name, raw, err)
		}
	}
	if raw, err := s.ReadFile("inner.json", 2); string(raw) != "{}" || err != nil {
		t.Errorf("a link within: %q %v", raw, err)
	}
	if raw, err := s.ReadFile("nonesuch.json", 2); raw != nil || err != nil {
		t.Errorf("missing: %q %v", raw, err)
	}
}
