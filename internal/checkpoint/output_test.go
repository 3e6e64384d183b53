package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// tree lists every file below dir with its content; directories end in a slash.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		rel = filepath.ToSlash(rel)
		switch {
		case d.IsDir():
			out[rel+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			out[rel], _ = os.Readlink(path)
		default:
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[rel] = string(raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustCreate(t testing.TB, dst string, opt Options) *Output {
	t.Helper()
	o, err := Create(dst, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Abort(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func mustWrite(t testing.TB, o *Output, rel, text string) {
	t.Helper()
	if err := o.WriteFile(rel, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestCommit(t *testing.T) {
	for _, c := range []struct {
		name   string
		before map[string]string // in the parent directory
		dst    string
		force  bool
		noSwap bool
		want   map[string]string // but for out/ itself
	}{
		{name: "new", dst: "out"},
		{name: "empty directory", dst: "out", before: map[string]string{"out/": ""}},
		{name: "empty directory with force", dst: "out", force: true, before: map[string]string{"out/": ""}},
		{name: "force", dst: "out", force: true, before: map[string]string{"out/old.txt": "old", "out/a/b": "old"}},
		{name: "force over a pipeline", dst: "out", force: true, before: map[string]string{"out/model_index.json": "old", "out/a/config.json": "old"}},
		{name: "force where names cannot be exchanged", dst: "out", force: true, noSwap: true, before: map[string]string{"out/old.safetensors": "old"}},
		{name: "force on nothing", dst: "out", force: true},
		{name: "trailing separator", dst: "out/"},
		{name: "dots", dst: "x/../out", before: map[string]string{"x/": ""}, want: map[string]string{"x/": ""}},
		{name: "staging of a killed run", dst: "out", before: map[string]string{"out.nf4kit-staging/a/b": "stale", "out.nf4kit-lock": ""}},
		{name: "killed between two renames", dst: "out", force: true, before: map[string]string{"out.nf4kit-old/a.safetensors": "old", "out.nf4kit-staging/a": "new"}},
		{name: "killed after two renames", dst: "out", force: true, before: map[string]string{"out.nf4kit-old/a": "old", "out/a.safetensors": "new"}},
		{name: "through a link", dst: "link", before: map[string]string{"out/": "", "link": "-> out"}, want: map[string]string{"link": "out"}},
		{name: "through a linked parent", dst: "link/out", before: map[string]string{"p/": "", "link": "-> p"},
			want: map[string]string{"link": "p", "p/": "", "p/out/": "", "p/out/config.json": "{}", "p/out/dir/": "", "p/out/dir/sub/": "", "p/out/dir/sub/x": "x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			for name, text := range c.before {
				path := filepath.Join(parent, filepath.FromSlash(name))
				switch target, link := strings.CutPrefix(text, "-> "); {
				case link:
					symlink(t, target, path)
				case strings.HasSuffix(name, "/"):
					if err := os.MkdirAll(path, 0o777); err != nil {
						t.Fatal(err)
					}
				default:
					write(t, parent, map[string]string{name: text})
				}
			}
			dst := filepath.Join(parent, filepath.FromSlash(c.dst))
			if strings.HasSuffix(c.dst, "/") || strings.Contains(c.dst, "..") {
				dst = parent + "/" + c.dst
			}
			before := tree(t, parent)
			o := mustCreate(t, dst, Options{Force: c.force})
			if c.noSwap {
				o.swap = func(a, b string) error { return errors.ErrUnsupported }
			}
			mustWrite(t, o, "config.json", "{}")
			mustWrite(t, o, "dir/sub/x", "x")
			if now := tree(t, o.Staging()); now["config.json"] != "" || now["dir/sub/x"] != "x" {
				t.Errorf("staging holds %v", now)
			}
			for name, text := range before {
				if now, ok := tree(t, parent)[name]; strings.HasPrefix(name, "out/") && (!ok || now != text) {
					t.Errorf("%s changed before Commit", name)
				}
			}
			if err := o.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			want := c.want
			if !strings.Contains(c.name, "parent") {
				want = map[string]string{"out/": "", "out/config.json": "{}", "out/dir/": "", "out/dir/sub/": "", "out/dir/sub/x": "x"}
				for name, text := range c.want {
					want[name] = text
				}
			}
			if diff := cmp.Diff(want, tree(t, parent)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := o.Abort(); err != nil {
				t.Errorf("abort after commit: %v", err)
			}
			if _, ok := tree(t, parent)["out/config.json"]; !ok && !strings.Contains(c.name, "parent") {
				t.Error("Abort after Commit removed the result")
			}
		})
	}
}

func TestCreateErrors(t *testing.T) {
	for _, c := range []struct {
		name       string
		before     []string // directories end in a slash, "a -> b" is a link
		dst        string
		src        string
		force      bool
		want, hint string
	}{
		{"no name", nil, "", "", false, `write "": the destination has no name`, ""},
		{"parent missing", nil, "DIR/a/b", "", false, "write DIR/a/b: its parent directory DIR/a does not exist: file does not exist", "create it first"},
		{"parent a file", []string{"a"}, "DIR/a/b", "", false, "write DIR/a/b: DIR/a is not a directory", ""},
		{"not empty", []string{"out/x"}, "DIR/out", "", false, "write DIR/out: exists and is not empty: file already exists", "--force replaces it"},
		{"a model", []string{"out/x.safetensors"}, "DIR/out", "", false, "write DIR/out: exists and is not empty: file already exists", "--force replaces it"},
		{"models", []string{"out/x", "out/a/y", "out/model/config.json"}, "DIR/out", "", false, "write DIR/out: exists and is not empty: file already exists", "name a directory below it, to be created"},
		{"models, with force", []string{"out/x", "out/a/y", "out/model/config.json"}, "DIR/out", "", true,
			"write DIR/out: it holds directories of models, and is none itself: file already exists", "name a directory below it, to be created"},
		{"a file", []string{"out"}, "DIR/out", "", true, "write DIR/out: exists and is not a directory: file already exists", "name another path"},
		{"link to nothing", []string{"out -> nowhere"}, "DIR/out", "", false, "write DIR/out: a symbolic link to nothing: lstat DIR/nowhere: no such file or directory", ""},
		{"same as the source", []string{"src/x"}, "DIR/src", "DIR/src", true, "write DIR/src: the same as the source DIR/src", "name another directory"},
		{"same through a link", []string{"src/x", "link -> src"}, "DIR/link", "DIR/src", true, "write DIR/link: the same as the source DIR/src", "name another directory"},
		{"source through a link", []string{"src/x", "link -> src"}, "DIR/src", "DIR/link", true, "write DIR/src: the same as the source DIR/link", "name another directory"},
		{"inside the source", []string{"src/x"}, "DIR/src/out", "DIR/src", false, "write DIR/src/out: inside the source DIR/src", "name a directory elsewhere"},
		{"deep inside the source", []string{"src/a/b/x"}, "DIR/src/a/b/out", "DIR/src", false, "write DIR/src/a/b/out: inside the source DIR/src", "name a directory elsewhere"},
		{"inside through a link", []string{"src/a/x", "link -> src/a"}, "DIR/link/out", "DIR/src", false, "write DIR/link/out: inside the source DIR/src", "name a directory elsewhere"},
		{"contains the source", []string{"out/src/x"}, "DIR/out", "DIR/out/src", true, "write DIR/out: contains the source DIR/out/src", "name another directory"},
		{"contains the source file", []string{"out/m.safetensors"}, "DIR/out", "DIR/out/m.safetensors", true, "write DIR/out: contains the source DIR/out/m.safetensors", "name another directory"},
		{"is the source file", []string{"m.safetensors"}, "DIR/m.safetensors", "DIR/m.safetensors", true, "write DIR/m.safetensors: the same as the source DIR/m.safetensors", "name another directory"},
		{"holds the working directory", []string{"out/wd/"}, "DIR/out", "", true, "write DIR/out: holds the working directory", "name a directory below it, to be created"},
		{"holds the home directory", []string{"out/home/"}, "DIR/out", "", true, "write DIR/out: holds the home directory", "name a directory below it, to be created"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range c.before {
				if link, target, ok := strings.Cut(name, " -> "); ok {
					symlink(t, target, filepath.Join(dir, link))
				} else if strings.HasSuffix(name, "/") {
					if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
						t.Fatal(err)
					}
				} else {
					write(t, dir, map[string]string{name: "x"})
				}
			}
			switch {
			case strings.Contains(c.name, "working"):
				t.Chdir(filepath.Join(dir, "out", "wd"))
			case strings.Contains(c.name, "home"):
				t.Setenv("HOME", filepath.Join(dir, "out", "home"))
				t.Setenv("USERPROFILE", filepath.Join(dir, "out", "home"))
			}
			before := tree(t, dir)
			opt := Options{Force: c.force}
			if c.src != "" {
				opt.Sources = []string{strings.ReplaceAll(c.src, "DIR", dir)}
			}
			o, err := Create(strings.ReplaceAll(c.dst, "DIR", dir), opt)
			if err == nil {
				o.Abort()
				t.Fatal("no error")
			}
			var oe *OutputError
			if !errors.As(err, &oe) {
				t.Fatalf("error %v is no *OutputError", err)
			}
			if diff := cmp.Diff(c.want, strings.ReplaceAll(err.Error(), dir, "DIR")); diff != "" && runtime.GOOS != "windows" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if oe.Hint != c.hint {
				t.Errorf("hint %q, want %q", oe.Hint, c.hint)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestCreateAllowed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"src/m.safetensors": "x", "srcs/y": "y"})
	for _, c := range []struct{ dst, src string }{
		{"out", "src"},
		{"src2", "src"},                  // a prefix is no parent
		{"src/out", "src/m.safetensors"}, // beside a source that is a file
	} {
		o := mustCreate(t, filepath.Join(dir, c.dst), Options{Sources: []string{filepath.Join(dir, c.src)}})
		if err := o.Abort(); err != nil {
			t.Error(err)
		}
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"out/old.safetensors": "old"})
	before := tree(t, dir)
	o := mustCreate(t, filepath.Join(dir, "out"), Options{Force: true})
	mustWrite(t, o, "a/b", "x")
	if _, err := o.CreateFile("open", 10); err != nil { // left open
		t.Fatal(err)
	}
	spill, err := o.Temp()
	if err != nil {
		t.Fatal(err)
	}
	spill.Close()
	if err := o.Abort(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if err := o.Abort(); err != nil {
		t.Errorf("second abort: %v", err)
	}
}

func TestCommitErrors(t *testing.T) {
	t.Run("cancelled", func(t *testing.T) {
		dir := t.TempDir()
		o := mustCreate(t, filepath.Join(dir, "out"), Options{})
		mustWrite(t, o, "x", "x")
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := o.Commit(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if err := o.Abort(); err != nil {
			t.Error(err)
		}
		if now := tree(t, dir); len(now) > 0 {
			t.Errorf("left %v", now)
		}
	})
	t.Run("file left open", func(t *testing.T) {
		o := mustCreate(t, filepath.Join(t.TempDir(), "out"), Options{})
		for _, name := range []string{"b", "a"} {
			if _, err := o.CreateFile(name, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Commit(context.Background()); err == nil || !strings.HasSuffix(err.Error(), ": not closed: a, b") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("filled meanwhile", func(t *testing.T) {
		dir := t.TempDir()
		o := mustCreate(t, filepath.Join(dir, "out"), Options{})
		write(t, dir, map[string]string{"out/x": "x"})
		var oe *OutputError
		if err := o.Commit(context.Background()); !errors.As(err, &oe) || oe.Reason != "exists and is not empty" {
			t.Errorf("error %v", err)
		}
		if err := o.Abort(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(map[string]string{"out/": "", "out/x": "x"}, tree(t, dir)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	for _, content := range []string{"old", ""} {
		t.Run("rename fails over "+content, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "out"), 0o777); err != nil {
				t.Fatal(err)
			}
			if content != "" {
				write(t, dir, map[string]string{"out/old.safetensors": content})
			}
			before := tree(t, dir)
			o := mustCreate(t, filepath.Join(dir, "out"), Options{Force: true})
			// What is renamed has gone when it comes to it, whichever way is taken.
			if err := os.RemoveAll(o.Staging()); err != nil {
				t.Skip(err)
			}
			if err := o.publish(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %v", err)
			}
			if err := o.Abort(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("not restored (-before +after):\n%s", diff)
			}
		})
	}
}

func TestLock(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	o := mustCreate(t, dst, Options{})
	mustWrite(t, o, "x.safetensors", "x")
	var oe *OutputError
	if _, err := Create(dst, Options{Force: true}); !errors.As(err, &oe) || oe.Reason != "another run is writing it" {
		t.Errorf("error %v", err)
	}
	if raw, err := os.ReadFile(filepath.Join(o.Staging(), "x.safetensors")); err != nil || string(raw) != "x" {
		t.Errorf("the second run touched the first: %q %v", raw, err)
	}
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	again := mustCreate(t, dst, Options{Force: true})
	if err := again.Abort(); err != nil {
		t.Error(err)
	}
}

// TestLockRace has many runs want one destination: never two of them at a time.
func TestLockRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := 0
	for range 8 {
		wg.Go(func() {
			for range 300 {
				l, err := acquire(path, false)
				if errors.Is(err, errLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !mu.TryLock() {
					t.Error("two hold the lock")
					return
				}
				got++
				for range 50 {
					runtime.Gosched() // let the others meet a lock that is held
				}
				mu.Unlock()
				if err := l.release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got == 0 {
		t.Error("nobody ever got the lock")
	}
}

func TestCreateNames(t *testing.T) {
	o := mustCreate(t, filepath.Join(t.TempDir(), "out"), Options{})
	for _, name := range []string{"", ".", "..", "../x", "a/../../x", "/x", "a//b", "a/", "./a", `a\b`, "c:x", "a\x00", ".nf4kit-partial", ".nf4kit-journal", ".NF4KIT-partial", ".nf4kit-journal/x"} {
		if f, err := o.CreateFile(name, 1); err == nil {
			f.Close()
			t.Errorf("%q was created", name)
		}
		if err := o.WriteFile(name, nil); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	mustWrite(t, o, "a/b", "x")
	mustWrite(t, o, "config.json", "x")
	for _, name := range []string{"a/b", "config.json"} {
		if err := o.WriteFile(name, nil); err == nil || !strings.Contains(err.Error(), "given twice") {
			t.Errorf("second %s: %v", name, err)
		}
	}
}

// TestFolded: where a system takes two names for the same, the second file does not replace the first.
func TestFolded(t *testing.T) {
	o, err := Create(filepath.Join(t.TempDir(), "out"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Abort()
	if err := o.WriteFile("A.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	_ = os.Link(filepath.Join(o.Staging(), "A.json"), filepath.Join(o.Staging(), "a.json")) // there already, where it is the same
	err = o.WriteFile("a.json", nil)
	if err == nil || !strings.Contains(err.Error(), "a.json: another file of the output has a name that this system takes for the same") {
		t.Errorf("error %v", err)
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"blob": "content", "config.json": "{}"})
	symlink(t, filepath.Join(dir, "blob"), filepath.Join(dir, "link"))
	o := mustCreate(t, filepath.Join(dir, "out"), Options{})
	if n, err := o.CopyFile("tokenizer.json", filepath.Join(dir, "link")); n != 7 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if n, err := o.CopyFile("config.json", filepath.Join(dir, "config.json")); n != 2 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := o.CopyFile("gone", filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := o.CopyFile("dir", dir); err == nil || !strings.Contains(err.Error(), "expected a regular file, found a directory") {
		t.Errorf("error %v", err)
	}
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"tokenizer.json": "content", "config.json": "{}"}, tree(t, o.Dir())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := os.Lstat(filepath.Join(o.Dir(), "tokenizer.json")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v %v", info, err)
	}
}

func TestTemp(t *testing.T) {
	o := mustCreate(t, filepath.Join(t.TempDir(), "out"), Options{})
	var files []*os.File
	for i := range 3 {
		f, err := o.Temp()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i)}, 1000), 5000); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	for i, f := range files {
		p := make([]byte, 1)
		if _, err := f.ReadAt(p, 5999); err != nil || p[0] != byte(i) {
			t.Errorf("file %d: %v %v", i, p, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if now := tree(t, o.Dir()); len(now) > 0 {
		t.Errorf("left %v", now)
	}
}

func TestShardWriter(t *testing.T) {
	dir := t.TempDir()
	entries := []safetensors.Entry{{Name: "b", DType: safetensors.U8, Shape: []int64{1 << 16}}, {Name: "a", DType: safetensors.F32, Shape: []int64{3}}}
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	o := mustCreate(t, filepath.Join(dir, "out"), Options{})
	w, err := o.CreateShard("model.safetensors", l)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := w.WriteAt("b", bytes.Repeat([]byte{byte(i)}, 1<<12), int64(i)<<12); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := w.WriteAt("a", make([]byte, 12), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(o.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, _ := s.Lookup("b")
	p := make([]byte, 1<<16)
	if _, err := b.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	for i, x := range p {
		if int(x) != i>>12 {
			t.Fatalf("byte %d is %d", i, x)
		}
	}

	o = mustCreate(t, filepath.Join(dir, "short"), Options{})
	w, err = o.CreateShard("model.safetensors", l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteAt("a", make([]byte, 12), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil || !strings.HasPrefix(err.Error(), "write model.safetensors: ") {
		t.Errorf("missing bytes: %v", err)
	}
	if _, err := o.CreateShard("model.safetensors", l); err == nil {
		t.Error("the same shard twice")
	}
}

func TestCheckSpace(t *testing.T) {
	dir := t.TempDir()
	if err := CheckSpace(filepath.Join(dir, "not", "there"), 1); err != nil {
		t.Error(err)
	}
	err := CheckSpace(dir, 1<<62)
	var space *SpaceError
	if !errors.As(err, &space) || space.Need != 1<<62 || space.Free <= 0 {
		t.Fatalf("error %v", err)
	}
	if want := fmt.Sprintf("write %s: expected %d bytes of free disk space, found %d", dir, int64(1)<<62, space.Free); err.Error() != want {
		t.Errorf("%s, want %s", err, want)
	}
	o := mustCreate(t, filepath.Join(dir, "out"), Options{})
	if _, err := o.CreateFile("huge", 1<<50); err == nil {
		t.Skip("the file system takes a petabyte")
	}
	if err := o.Abort(); err != nil {
		t.Fatal(err)
	}
	if now := tree(t, dir); len(now) > 0 {
		t.Errorf("left %v", now)
	}
}
