package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOutputFile: a file is there when it is committed, and not before; one that was there stays until then.
func TestOutputFile(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "x.tar.zst")
	create := func(opt Options) *OutputFile {
		t.Helper()
		o, err := CreateOutputFile(dst, opt)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := create(Options{})
	var oe *OutputError
	if _, err := CreateOutputFile(dst, Options{}); !errors.As(err, &oe) || oe.Reason != "another run is writing it" {
		t.Errorf("a second run: %v", err)
	}
	if _, err := o.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Abort(), o.Abort()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{}, tree(t, dir)); diff != "" {
		t.Errorf("aborted (-want +got):\n%s", diff)
	}
	// what a killed run leaves is written over
	if err := os.WriteFile(beside(dst, stagingSuffix), []byte("much longer"), 0o666); err != nil {
		t.Fatal(err)
	}
	o = create(Options{})
	_, werr := o.WriteString("one")
	if err := errors.Join(werr, o.Commit(t.Context()), o.Abort()); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateOutputFile(dst, Options{}); !errors.As(err, &oe) || oe.Reason != "exists" {
		t.Errorf("over another: %v", err)
	}
	o = create(Options{Force: true})
	if diff := cmp.Diff("one", tree(t, dir)["x.tar.zst"]); diff != "" {
		t.Errorf("before Commit (-want +got):\n%s", diff)
	}
	_, werr = o.WriteString("two")
	if err := errors.Join(werr, o.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"x.tar.zst": "two"}, tree(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := CreateOutputFile(dir, Options{Force: true, Sources: nil}); !errors.As(err, &oe) {
		t.Errorf("over a directory: %v", err)
	}
	if _, err := CreateOutputFile(dst, Options{Force: true, Sources: []string{dir}}); !errors.As(err, &oe) {
		t.Errorf("inside a source: %v", err)
	}
}
