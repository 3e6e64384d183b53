package lora

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// writeTensors writes a weights file of tensors; seed makes bytes of those without values.
func writeTensors(t *testing.T, path string, metadata map[string]string, seed byte, list ...weights.Tensor) {
	t.Helper()
	var entries []safetensors.Entry
	for _, x := range list {
		entries = append(entries, safetensors.Entry{Name: x.Name, DType: x.DType, Shape: x.Shape})
	}
	layout, err := safetensors.NewLayout(entries, metadata)
	if err != nil {
		t.Fatal(err)
	}
	w, err := safetensors.Create(path, layout)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		raw := make([]byte, x.Elems()*int64(x.DType.Bits()/8))
		if x.Values != nil {
			if _, err := x.Values.ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
		} else {
			for i := range raw { // small finite numbers in bfloat16 and float32
				raw[i] = byte(i)*seed&0x3f + seed
			}
		}
		if err := w.WriteAt(x.Name, raw, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// digests are those of all files of a directory.
func digests(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, err2 := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = blake3.Sum256(raw)
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
		t.Fatal(err)
	}
}

func openModel(t *testing.T, dir string) *weights.Model {
	t.Helper()
	src, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := weights.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tensor(name string, d safetensors.DType, shape ...int64) weights.Tensor {
	return weights.Tensor{Name: name, DType: d, Shape: shape}
}

// undoCase makes a base in two shards of odd layout, and what a merge makes of it, in one.
func undoCase(t *testing.T) (base, merged, undo string) {
	t.Helper()
	dir := t.TempDir()
	base, merged, undo = filepath.Join(dir, "base"), filepath.Join(dir, "merged"), filepath.Join(dir, "undo")
	if err := errors.Join(os.Mkdir(base, 0o777), os.Mkdir(merged, 0o777)); err != nil {
		t.Fatal(err)
	}
	q, k := tensor("m.q.weight", safetensors.BF16, 700, 900), tensor("m.k.weight", safetensors.F16, 3, 5)
	norm, empty, count := tensor("m.norm.weight", safetensors.F32, 7), tensor("m.none", safetensors.BF16, 0), tensor("m.count", safetensors.I64, 1)
	writeTensors(t, filepath.Join(base, "model-00001-of-00002.safetensors"), map[string]string{"format": "pt", "by": "somebody"}, 3, k, norm, count)
	writeTensors(t, filepath.Join(base, "model-00002-of-00002.safetensors"), nil, 5, q, empty, norm) // a stale copy of the norm
	writeFile(t, base, "model.safetensors.index.json", `{"metadata":{ },"weight_map":{"m.k.weight":"model-00001-of-00002.safetensors","m.norm.weight":
		"model-00002-of-00002.safetensors","m.count":"model-00001-of-00002.safetensors","m.q.weight":"model-00002-of-00002.safetensors","m.none":"model-00002-of-00002.safetensors"}}`)
	for name, text := range map[string]string{"config.json": "{ \"a\" : 1.00 }\n", "README.md": "read", "tokenizer.json": "{}", ".gitattributes": "*", "1_Pooling/config.json": "{}",
		"optimizer.pt": strings.Repeat("state", maxUndoOther/4), "nf4kit.json": "{}"} {
		writeFile(t, base, name, text)
	}
	a, err := Open(file(t, plainConfig, map[string][]int64{"m.q.lora_A.weight": {2, 900}, "m.q.lora_B.weight": {700, 2}, "m.k.lora_A.weight": {2, 5}, "m.k.lora_B.weight": {3, 2}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	m := openModel(t, base)
	x, err := NewMerge(m.Tensors, []*Adapter{a}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := x.Apply(m.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	writeTensors(t, filepath.Join(merged, "model.safetensors"), nil, 0, after...)
	writeFile(t, merged, "README.md", "another")
	f, err := os.Create(undo)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.WriteUndo(t.Context(), f, m.Source, openModel(t, merged).Source), f.Close()); err != nil {
		t.Fatal(err)
	}
	return base, merged, undo
}

// A merge that is undone gives back every byte of every file.
func TestUndo(t *testing.T) {
	base, merged, undo := undoCase(t)
	u, err := OpenUndo(undo)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if diff := cmp.Diff([]string{"optimizer.pt"}, u.Left()); diff != "" {
		t.Error(diff)
	}
	if u.Count() != 3 { // q, k and the stale norm
		t.Errorf("%d tensors differ, want 3", u.Count())
	}
	dst := filepath.Join(t.TempDir(), "back")
	if err := u.Restore(t.Context(), openModel(t, merged).Source, dst, checkpoint.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	want := digests(t, base)
	delete(want, "optimizer.pt")
	if diff := cmp.Diff(want, digests(t, dst)); diff != "" {
		t.Error(diff)
	}
}

// What is not the model that the merge wrote gives nothing back.
func TestUndoOfAnother(t *testing.T) {
	base, merged, undo := undoCase(t)
	changed := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(merged, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	src := openModel(t, merged).Source
	for _, name := range []string{"m.q.weight", "m.k.weight", "m.count"} {
		x, _ := src.Lookup(name)
		other := slices.Clone(raw)
		other[x.Offset()+x.Size()-1] ^= 1
		writeFile(t, changed, name+"/model.safetensors", string(other))
	}
	for name, dir := range map[string]string{"the base": base, "a byte of q": filepath.Join(changed, "m.q.weight"), "of k": filepath.Join(changed, "m.k.weight"),
		"of what was kept": filepath.Join(changed, "m.count")} {
		u, err := OpenUndo(undo)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "back")
		err = u.Restore(t.Context(), openModel(t, dir).Source, dst, checkpoint.Options{}, nil)
		if e := (*Error)(nil); !errors.As(err, &e) {
			t.Errorf("%s: %v, want an *Error", name, err)
		}
		if left, _ := filepath.Glob(dst + "*"); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		u.Close()
	}
}

// FuzzOpenUndo reads files that say they undo a merge, and what they give back.
func FuzzOpenUndo(f *testing.F) {
	for _, index := range []string{
		`{"files":[{"name":"model.safetensors","size":48,"frames":[14],"tensors":[{"name":"m.q.weight","dtype":"BF16","shape":[4,6],"size":48,"frames":[14,14]}]}]}`,
		`{"files":[{"name":"../x","size":1,"bytes":1,"frames":[14,15]}]}`,
		`{"files":[{"name":"x","size":9000000000000000000,"frames":[14],"tensors":[{"name":"a","size":9000000000000000000},{"name":"m.q.weight","size":-1}]}]}`,
		`{"files":[{"name":"x","size":48,"frames":[14],"tensors":[{"name":"m.q.weight","dtype":"BF16","shape":[4,6],"size":48}]}]}`,
	} {
		f.Add([]byte(index), []byte{1, 2, 3})
	}
	dir := f.TempDir()
	raw := "\x48\x00\x00\x00\x00\x00\x00\x00" + `{"m.q.weight":{"dtype":"BF16","shape":[4,6],"data_offsets":[0,48]}}     `[:72] + strings.Repeat("x", 48)
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), []byte(raw), 0o666); err != nil {
		f.Fatal(err)
	}
	merged, err := checkpoint.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	defer merged.Close()
	f.Fuzz(func(t *testing.T, index, frames []byte) {
		raw := append([]byte(undoMagic), frames...)
		raw = append(raw, index...)
		raw = binary.LittleEndian.AppendUint64(raw, uint64(len(index)))
		in := t.TempDir()
		path := filepath.Join(in, "undo")
		if err := os.WriteFile(path, raw, 0o666); err != nil {
			t.Fatal(err)
		}
		u, err := OpenUndo(path)
		if err != nil {
			return
		}
		defer u.Close()
		if u.checkTensors(merged) != nil {
			return
		}
		for i := range u.index.Files {
			file := &u.index.Files[i]
			if file.Size > 1<<20 {
				continue
			}
			var b bytes.Buffer
			if err := u.write(t.Context(), &b, file, merged, nil); err == nil && (int64(b.Len()) != file.Size || !filepath.IsLocal(file.Name)) {
				t.Errorf("%d bytes of %+v", b.Len(), file)
			}
		}
	})
}
