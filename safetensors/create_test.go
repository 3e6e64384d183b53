package safetensors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.safetensors")
	l, err := NewLayout([]Entry{{Name: "x", DType: U8, Shape: []int64{3}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	w, err := Create(name, l)
	if err != nil {
		t.Fatal(err)
	}
	if w.Name() != name {
		t.Errorf("name %s", w.Name())
	}
	if err := w.WriteAt("x", []byte{1, 2}, 0); err != nil {
		t.Fatal(err)
	}
	if old, _ := os.ReadFile(name); string(old) != "old" {
		t.Errorf("an unfinished file has the name: %q", old)
	}
	// A byte is missing: nothing is left, and the old file stays.
	for range 2 {
		if err := w.Close(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "bytes 2 to 3 of 3") {
			t.Errorf("close: %v", err)
		}
	}
	if got := names(t, dir); got != "a.safetensors" {
		t.Errorf("left behind: %s", got)
	}

	if w, err = Create(name, l); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteAt("x", []byte{1, 2, 3}, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); got != "a.safetensors" {
		t.Errorf("left behind: %s", got)
	}
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 3)
	if _, err := f.Lookup("x").ReadAt(got, 0); err != nil || string(got) != "\x01\x02\x03" {
		t.Errorf("read %v, %v", got, err)
	}
}

func TestCreateErrors(t *testing.T) {
	dir := t.TempDir()
	l, err := NewLayout(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Join(dir, "no", "such.safetensors"), l); err == nil {
		t.Error("created in a directory that is not there")
	}
	// The name is taken by a directory.
	name := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(name, "full"), 0o777); err != nil {
		t.Fatal(err)
	}
	w, err := Create(name, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, dir); got != "d" {
		t.Errorf("left behind: %s", got)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.safetensors")
	x := Filled{Entry{Name: "x", DType: U8, Shape: []int64{2}}, []byte{1, 2}}
	y := Filled{Entry{Name: "y", DType: I16, Shape: []int64{1}}, []byte{3, 4}}
	if err := WriteFile(name, []Filled{x, y}, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range []Filled{x, y} {
		got := make([]byte, 2)
		if _, err := f.Lookup(want.Name).ReadAt(got, 0); err != nil || string(got) != string(want.Data) {
			t.Errorf("%s: %v, %v", want.Name, got, err)
		}
	}
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata())
	}
	for _, c := range []struct {
		tensors []Filled
		want    string
	}{
		{[]Filled{x, x}, "duplicate name"},
		{[]Filled{{x.Entry, []byte{1}}}, "bytes 1 to 2 of 2"},
		{[]Filled{{x.Entry, []byte{1, 2, 3}}}, "x"},
	} {
		bad := filepath.Join(dir, "bad.safetensors")
		if err := WriteFile(bad, c.tensors, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q in it", err, c.want)
		}
		if got := names(t, dir); got != "a.safetensors" {
			t.Errorf("left behind: %s", got)
		}
	}
}
