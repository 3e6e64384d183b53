//go:build unix

package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

func TestModes(t *testing.T) {
	for _, mask := range []int{0o022, 0o077, 0o002} {
		old := unix.Umask(mask)
		t.Cleanup(func() { unix.Umask(old) })
		o := mustCreate(t, filepath.Join(t.TempDir(), "out"), Options{})
		mustWrite(t, o, "config.json", "x")
		mustWrite(t, o, "dir/x", "x")
		if err := o.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		unix.Umask(old)
		for name, all := range map[string]fs.FileMode{".": 0o777, "dir": 0o777, "config.json": 0o666, "dir/x": 0o666} {
			info, err := os.Stat(filepath.Join(o.Dir(), name))
			if err != nil {
				t.Fatal(err)
			}
			if want := all &^ fs.FileMode(mask); info.Mode().Perm() != want {
				t.Errorf("umask %04o: %s has mode %04o, want %04o", mask, name, info.Mode().Perm(), want)
			}
		}
	}
}

// TestKilled kills a run in the middle: no destination, a staging directory that the next run clears.
func TestKilled(t *testing.T) {
	const env = "NF4KIT_TEST_KILLED"
	if dst := os.Getenv(env); dst != "" {
		o, err := Create(dst, Options{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.WriteFile("model.safetensors", []byte("half")); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Temp(); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("ready\n")
		time.Sleep(time.Minute) // not for ever: the runtime takes that for a deadlock, and ends
		runtime.KeepAlive(o)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"out/old.safetensors": "old"})
	dst := filepath.Join(dir, "out")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), env+"="+dst)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	var oe *OutputError
	if _, err := Create(dst, Options{Force: true}); !errors.As(err, &oe) || oe.Reason != "another run is writing it" {
		t.Errorf("beside a living run: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as told
	now := tree(t, dir)
	if now["out/old.safetensors"] != "old" || now["out.nf4kit-staging/model.safetensors"] != "half" {
		t.Errorf("after the kill: %v", now)
	}
	for name := range now {
		if strings.HasPrefix(name, "out/") && name != "out/" && name != "out/old.safetensors" || strings.HasPrefix(name, "out.nf4kit-staging/.nf4kit-partial/") && !strings.HasSuffix(name, "/") {
			t.Errorf("after the kill there is %s", name)
		}
	}
	o := mustCreate(t, dst, Options{Force: true})
	mustWrite(t, o, "new", "new")
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if now := tree(t, dir); len(now) != 2 || now["out/new"] != "new" {
		t.Errorf("after the next run: %v", now)
	}
}

// TestPipes: a named pipe where a file should be is refused, not opened; that would wait for ever.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	sharded(t, dir)
	pipe := func(name string) {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o666); err != nil {
			t.Skip(err)
		}
	}
	pipe("tokenizer.bin")
	write(t, dir, map[string]string{`back\slash.json`: "x", "c:olon.json": "x"})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, skipped, err := s.SideFiles()
	if err != nil || len(files) != 0 {
		t.Errorf("%v %v", files, err)
	}
	reasons := map[string]string{}
	for _, k := range skipped {
		reasons[k.Rel] = k.Reason
	}
	if reasons["tokenizer.bin"] != "weights in another form" || reasons[`back\slash.json`] != "a name that not every system has" || reasons["c:olon.json"] == "" {
		t.Errorf("skipped %v", reasons)
	}
	pipe("tokenizer.json")
	var in *InputError
	if _, _, err := s.SideFiles(); !errors.As(err, &in) || in.Found != "a named pipe" || in.File != filepath.Join(dir, "tokenizer.json") {
		t.Errorf("a pipe among the side files: %v", err)
	}
	if _, err := s.ReadFile("tokenizer.json", MaxConfigSize); err == nil || !strings.HasSuffix(err.Error(), "expected a regular file, found a named pipe") {
		t.Errorf("error %v", err)
	}
	s.Close()
	for _, name := range []string{"config.json", shard2, "model.safetensors.index.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		pipe(name)
		var in *InputError
		if _, err := Open(dir); !errors.As(err, &in) || in.Found != "a named pipe" || filepath.Base(in.File) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open("/dev/null"); err == nil || !strings.HasSuffix(err.Error(), "found a device") {
		t.Errorf("device: %v", err)
	}
}

func TestParentNotWritable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("every directory is writable")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	var oe *OutputError
	if _, err := Create(filepath.Join(dir, "out"), Options{}); !errors.As(err, &oe) || !errors.Is(err, fs.ErrPermission) ||
		oe.Reason != "directory "+dir+" is not writable" {
		t.Errorf("error %v", err)
	}
}

// TestNoLocks: where locks do not work, the file made for one does not stay.
func TestNoLocks(t *testing.T) {
	for _, cause := range []error{unix.ENOLCK, unix.EOPNOTSUPP, unix.ENOSYS} {
		path := filepath.Join(t.TempDir(), "out.nf4kit-lock")
		l, err := acquireBy(path, func(f *flock.Flock) (bool, error) {
			if _, err := f.TryLock(); err != nil {
				return false, err
			}
			return false, &fs.PathError{Op: "flock", Path: path, Err: cause}
		})
		if err != nil || l.held() {
			t.Errorf("%v: %v", cause, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: the lock file is left: %v", cause, err)
		}
	}
}

// TestKeepsMode: a directory that is replaced, empty or not, keeps its mode.
func TestKeepsMode(t *testing.T) {
	for _, force := range []bool{false, true} {
		dst := filepath.Join(t.TempDir(), "out")
		if err := os.Mkdir(dst, 0o700); err != nil {
			t.Fatal(err)
		}
		if force {
			write(t, dst, map[string]string{"config.json": "{}"})
		}
		o, err := Create(dst, Options{Force: force})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dst); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("force %v: mode %v, %v", force, info.Mode(), err)
		}
	}
}

// TestLongNames: a name may be as long as the file system takes.
func TestLongNames(t *testing.T) {
	parent := t.TempDir()
	for _, name := range []string{strings.Repeat("n", 240), strings.Repeat("n", 241), strings.Repeat("é", 127), strings.Repeat("n", 255)} {
		o, err := Create(filepath.Join(parent, name), Options{})
		if err != nil {
			t.Fatalf("%d bytes: %v", len(name), err)
		}
		if err := o.Commit(t.Context()); err != nil {
			t.Errorf("%d bytes: %v", len(name), err)
		}
	}
	if a, b := beside("/x/"+strings.Repeat("n", 250)+"a", lockSuffix), beside("/x/"+strings.Repeat("n", 250)+"b", lockSuffix); a == b {
		t.Errorf("two names share %s", a)
	}
}

// TestAbandoned: what a dead run has left is told, what a living one fills is not.
func TestAbandoned(t *testing.T) {
	parent := t.TempDir()
	write(t, parent, map[string]string{"dead.nf4kit-staging/x": "", "dead.nf4kit-lock": "", "gone.nf4kit-old/x": "", "own.nf4kit-staging/x": "", "file.nf4kit-staging": ""})
	living, err := Create(filepath.Join(parent, "living"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer living.Abort()
	o, err := Create(filepath.Join(parent, "own"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Abort()
	want := []string{filepath.Join(o.dir, "..", "dead.nf4kit-staging"), filepath.Join(o.dir, "..", "gone.nf4kit-old")}
	if !slices.Equal(o.Abandoned(), want) {
		t.Errorf("%v, want %v", o.Abandoned(), want)
	}
}

func TestIsMountPoint(t *testing.T) {
	if isMountPoint(t.TempDir()) {
		t.Error("a temporary directory is a mount point")
	}
	if _, err := os.Stat("/proc/self"); err == nil && !isMountPoint("/proc") {
		t.Error("/proc is no mount point")
	}
}

func TestIsNoSpace(t *testing.T) {
	if !IsNoSpace(&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}) || IsNoSpace(fs.ErrPermission) || IsNoSpace(nil) {
		t.Error("wrong")
	}
}
