package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func recorded(t *testing.T, dst string) (list []string, damaged []Damage) {
	t.Helper()
	damaged, err := Recorded(dst, func(r []byte) error { list = append(list, string(r)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return list, damaged
}

// TestJournal: what is recorded is there for the next attempt, and gone from what is committed.
func TestJournal(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	if list, damaged := recorded(t, dst); len(list)+len(damaged) > 0 {
		t.Errorf("before any run: %v %v", list, damaged)
	}
	o := mustCreate(t, dst, Options{Resume: true})
	if o.Resumed() {
		t.Error("there is something to resume")
	}
	mustWrite(t, o, "a", "whole")
	for _, r := range []string{`{"a":1}`, `{"b":2}`} {
		if err := o.Record([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := o.CreateFile("b", 100); err != nil || f == nil {
		t.Fatal(err)
	}
	if err := o.Suspend(); err != nil {
		t.Fatal(err)
	}
	if Left(dst) != o.Staging() {
		t.Errorf("left %q", Left(dst))
	}
	var oe *OutputError
	if _, err := Create(dst, Options{}); !errors.As(err, &oe) || !strings.Contains(oe.Reason, "holds finished weights files") {
		t.Errorf("a run that keeps nothing: %v", err)
	}
	o = mustCreate(t, dst, Options{Resume: true})
	if !o.Resumed() || Left(dst) != "" {
		t.Errorf("resumed %v, left %q", o.Resumed(), Left(dst))
	}
	if err := o.Record([]byte(`{"c":3}`)); err != nil {
		t.Fatal(err)
	}
	list, damaged := recorded(t, dst)
	if len(list) != 3 || len(damaged) > 0 {
		t.Errorf("%v %v", list, damaged)
	}
	o.Adopt("a")
	if err := o.Sweep(true); err != nil {
		t.Fatal(err)
	}
	if err := o.WriteFile("a", nil); err == nil {
		t.Error("an adopted file was written again")
	}
	if err := o.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "whole"}, tree(t, dst)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestParkedJournal: a run that dies around the rename has lost nothing, or has nothing to lose.
func TestParkedJournal(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	o := mustCreate(t, dst, Options{Resume: true})
	mustWrite(t, o, "a", "x")
	if err := errors.Join(o.Record([]byte(`{}`)), o.parkJournal(), o.Suspend()); err != nil {
		t.Fatal(err)
	}
	if list, _ := recorded(t, dst); len(list) != 1 {
		t.Errorf("parked: %v", list)
	}
	o = mustCreate(t, dst, Options{Resume: true})
	if list, _ := recorded(t, dst); len(list) != 1 || !o.Resumed() {
		t.Errorf("before the rename: %v", list)
	}
	if err := errors.Join(o.parkJournal(), o.Suspend(), os.RemoveAll(o.Staging())); err != nil {
		t.Fatal(err)
	}
	o = mustCreate(t, dst, Options{Resume: true})
	if list, _ := recorded(t, dst); len(list) != 0 || o.Resumed() {
		t.Errorf("behind the rename: %v", list)
	}
	if err := errors.Join(o.Record([]byte(`{}`)), o.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dst + ".*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}

	// A rename that fails gives the journal back.
	o = mustCreate(t, dst, Options{Resume: true, Force: true})
	if err := o.Record([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, o, "a", "x")
	if err := os.WriteFile(filepath.Join(dst, "other"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	o.force = false
	if err := o.Commit(t.Context()); err == nil || !o.Continuable() {
		t.Fatalf("error %v", err)
	}
	if err := o.Suspend(); err != nil {
		t.Fatal(err)
	}
	if list, _ := recorded(t, dst); len(list) != 1 {
		t.Errorf("after a failure: %v", list)
	}
}

// TestTasks: tasks share a staging directory, each is run once at a time, and nobody commits meanwhile.
func TestTasks(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	create := func(task string) *Output { return mustCreate(t, dst, Options{Resume: true, Task: task}) }
	a, b := create("task-1-of-2"), create("task-2-of-2")
	var oe *OutputError
	if _, err := Create(dst, Options{Resume: true, Task: "task-1-of-2"}); !errors.As(err, &oe) || oe.Reason != "task-1-of-2 is being run by another process" {
		t.Errorf("the same task: %v", err)
	}
	if _, err := Create(dst, Options{Resume: true}); !errors.As(err, &oe) || oe.Reason != "another run is writing it" {
		t.Errorf("a whole run: %v", err)
	}
	for name, o := range map[string]*Output{"a": a, "b": b} {
		if err := o.Record([]byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, o, name, name)
	}
	if err := a.Suspend(); err != nil {
		t.Fatal(err)
	}
	a = create("task-1-of-2")
	if err := a.Record([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := a.Abort(); err != nil { // withdraws what this attempt has recorded
		t.Fatal(err)
	}
	if err := b.Suspend(); err != nil {
		t.Fatal(err)
	}
	if list, _ := recorded(t, dst); len(list) != 2 {
		t.Errorf("%v", list)
	}
	o := mustCreate(t, dst, Options{Resume: true})
	o.Adopt("a")
	o.Adopt("b")
	if err := o.Sweep(true); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "a", "b": "b"}, tree(t, dst)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left, _ := filepath.Glob(dst + ".*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	// A task that has done nothing leaves nothing but the lock, which others may be waiting for.
	dst += "2"
	if err := create("task-1-of-2").Abort(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dst + ".nf4kit-staging"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestTooManyAttempts(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	dir := filepath.Join(dst+stagingSuffix, journalDir)
	write(t, dir, map[string]string{"x.jsonl": "", "run.jsonl.bak": "junk", "task-1-of-2.lock": ""})
	if list, damaged := recorded(t, dst); len(list)+len(damaged) > 0 {
		t.Errorf("%v %v", list, damaged)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.jsonl"), 0o777); err != nil {
		t.Fatal(err)
	}
	var in *InputError
	if _, err := Recorded(dst, nil); !errors.As(err, &in) {
		t.Errorf("a directory in a file's place: %v", err)
	}
}

// FuzzJournal: whatever bytes a journal holds, every record that is taken bears its checksum, and what is written is read.
func FuzzJournal(f *testing.F) {
	for _, s := range []string{"", "\n", "00000000 \n", "4e2d7b1c {}\n", "x", strings.Repeat("0", 100)} {
		f.Add([]byte(s), []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, raw, record []byte) {
		if len(record) == 0 || bytes.IndexByte(record, '\n') >= 0 {
			return
		}
		line := fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(record, castagnoli), record)
		raw = bytes.Clone(raw) // the fuzzer's own, else
		if len(raw) > 0 && raw[len(raw)-1] != '\n' {
			raw = append(raw, '\n')
		}
		n := 0
		var last []byte
		d, err := scanJournal(bytes.NewReader(append(raw, line...)), func(r []byte) error {
			n++
			last = bytes.Clone(r)
			return nil
		})
		if err != nil || !bytes.Equal(last, record) {
			t.Fatalf("%q %v, want %q", last, err, record)
		}
		if want := bytes.Count(raw, []byte{'\n'}) + 1; n+d.Lines != want || d.Torn {
			t.Fatalf("%d records and %d damaged of %d lines, torn %v", n, d.Lines, want, d.Torn)
		}
	})
}
