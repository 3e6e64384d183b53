package checkpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

const (
	stagingSuffix = ".nf4kit-staging" // the directory that is filled
	lockSuffix    = ".nf4kit-lock"    // held by the run that fills it
	oldSuffix     = ".nf4kit-old"     // the destination being replaced, where the system cannot exchange two names
	journalSuffix = ".nf4kit-journal" // the journal, while the staging directory becomes the destination
)

// Directories of staging that the destination does not get.
const (
	partialDir = ".nf4kit-partial" // a directory for each attempt, with the files that it has not finished
	journalDir = ".nf4kit-journal" // what is finished, see Output.Record
)

// maxName is what file systems take for a name, in bytes.
const maxName = 255

// beside is the path of a helper of the directory dir. Where dir's name leaves no room for the suffix, the end of the
// name is replaced by a digest of it.
func beside(dir, suffix string) string {
	parent, name := filepath.Split(dir)
	if room := maxName - max(len(stagingSuffix), len(lockSuffix), len(oldSuffix), len(journalSuffix)); len(name) > room {
		digest := sha256.Sum256([]byte(name))
		tail := "~" + hex.EncodeToString(digest[:8])
		name = strings.ToValidUTF8(name[:room-len(tail)], "") + tail
	}
	return filepath.Join(parent, name+suffix)
}

// Options of Create. The zero value refuses a destination that holds anything.
type Options struct {
	Force   bool     // replace a destination that holds something, once the new one is complete
	Sources []string // paths that the destination must neither be, nor be inside of, nor contain
	Resume  bool     // keep a staging directory with a journal, which the caller then has to look into
	Task    string   // a name among those that fill one staging directory at the same time, or ""; asks for Resume
	Store   Store    // that the files go to; the destination is but a name for the staging directory then
}

// Output is a directory in the making. Everything is written into a staging directory beside the destination, under a
// lock; Commit gives it its name, Abort removes it, Suspend leaves what is finished to a later run. A killed run leaves
// the staging directory, never a destination; the next Create of the same destination removes it, or keeps what its
// journal says is finished (Options.Resume). A file has its name in the staging directory from its Close on.
//
// Its methods may be called from several goroutines, Commit and Abort only after all others have returned.
type Output struct {
	dir     string // resolved, absolute
	staging string
	force   bool
	root    *os.Root
	lock    *dirLock
	task    string
	resumed bool
	turn    *dirLock                // of the task, against a second run of it
	attempt string                  // the directory below staging of files that are not finished
	left    []string                // see Abandoned
	swap    func(a, b string) error // exchange; tests replace it to reach the way without

	mu     sync.Mutex
	files  map[string]bool // relative names given out
	dirs   map[string]bool // directories made below staging
	open   map[*File]bool
	config []byte // held back until Commit
	temps  int
	done   bool

	journal *os.File  // of this attempt; nil before its first record
	store   *delivery // nil: the staging directory becomes the destination
}

// Check is what Create finds wrong with dst before it touches anything.
func Check(dst string, opt Options) error {
	_, err := check(dst, opt)
	return err
}

func check(dst string, opt Options) (dir string, err error) {
	if dir, err = resolveDestination(dst); err != nil {
		return "", err
	}
	if opt.Store != nil {
		return dir, checkStore(opt.Store, dir, opt)
	}
	if err := checkSources(dst, dir, opt.Sources); err != nil {
		return "", err
	}
	return dir, checkDestination(dst, dir, opt.Force)
}

// Create prepares to write the directory dst. It fails, having changed nothing, with an *OutputError if dst may not be
// written: it exists and is not empty (unless Force), is not a directory, is or lies in a source or contains one, is
// being written by another run, or its parent is missing or not writable.
func Create(dst string, opt Options) (*Output, error) {
	// Asked again under the lock; here it keeps a refusal from leaving traces or being masked by the parent's.
	dir, err := check(dst, opt)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(beside(dir, lockSuffix), opt.Task != "")
	if err != nil {
		return nil, lockError(dst, dir, err)
	}
	o := &Output{dir: dir, staging: beside(dir, stagingSuffix), force: opt.Force, lock: lock, task: opt.Task, swap: exchange,
		left: abandoned(filepath.Dir(dir), beside(dir, stagingSuffix)), files: make(map[string]bool), dirs: make(map[string]bool), open: make(map[*File]bool)}
	if opt.Store != nil {
		o.store = &delivery{to: opt.Store, sent: map[string]bool{}}
	}
	prepare := o.prepare
	if opt.Task != "" {
		prepare = o.join
	}
	if err := prepare(dst, opt.Resume); err != nil {
		return nil, errors.Join(err, o.releaseLocks())
	}
	return o, nil
}

func lockError(dst, dir string, err error) error {
	switch {
	case errors.Is(err, errLocked):
		return &OutputError{Path: dst, Reason: "another run is writing it", Hint: "wait for it or stop it"}
	case errors.Is(err, fs.ErrPermission):
		return &OutputError{Path: dst, Reason: "directory " + filepath.Dir(dir) + " is not writable", Err: err}
	}
	return fmt.Errorf("lock %s: %w", dst, err)
}

// prepare makes the staging directory of a whole run.
func (o *Output) prepare(dst string, resume bool) error {
	if o.store == nil {
		if err := recoverOld(o.dir); err != nil {
			return err
		}
		if err := checkDestination(dst, o.dir, o.force); err != nil {
			return err
		}
	}
	if o.lock.held() {
		if err := recoverJournal(o.dir); err != nil {
			return err
		}
		if o.resumed = isDir(filepath.Join(o.staging, journalDir)); o.resumed {
			if !resume {
				return &OutputError{Path: dst, Reason: o.staging + " holds finished weights files of a conversion that did not end",
					Hint: "finish it with its own command, or remove that directory"}
			}
			return o.enter(os.RemoveAll(filepath.Join(o.staging, partialDir)))
		}
		if err := os.RemoveAll(o.staging); err != nil {
			return fmt.Errorf("remove the staging directory of an earlier run: %w", err)
		}
	}
	if err := os.Mkdir(o.staging, 0o777); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &OutputError{Path: dst, Reason: o.staging + " exists and this file system has no locks to tell whose it is",
				Hint: "remove it if no other run is writing", Err: err}
		}
		return fmt.Errorf("create staging directory: %w", err)
	}
	if err := o.enter(nil); err != nil {
		return errors.Join(err, os.RemoveAll(o.staging))
	}
	return nil
}

// enter opens the staging directory and makes this attempt's own below it, unless err is one already.
func (o *Output) enter(err error) error {
	if err != nil {
		return fmt.Errorf("open staging directory: %w", err)
	}
	root, err := os.OpenRoot(o.staging)
	if err != nil {
		return fmt.Errorf("open staging directory: %w", err)
	}
	o.attempt = path.Join(partialDir, fmt.Sprintf("%s-%016x", cmp.Or(o.task, "run"), rand.Uint64()))
	if err := root.MkdirAll(o.attempt, 0o777); err != nil {
		return errors.Join(fmt.Errorf("open staging directory: %w", err), root.Close())
	}
	o.root = root
	return nil
}

// Dir is the absolute path the directory will have, or the name of the store.
func (o *Output) Dir() string {
	if o.store != nil {
		return o.store.to.String()
	}
	return o.dir
}

// Staging is the absolute path the directory has until Commit.
func (o *Output) Staging() string { return o.staging }

// Resumed reports whether there may be something of earlier attempts.
func (o *Output) Resumed() bool { return o.resumed }

// Continuable reports whether Suspend would leave something to go on with: neither it nor Commit has ended.
func (o *Output) Continuable() bool { return !o.done }

// Abandoned are the staging directories of other destinations beside this one that no run is filling, and what such a run
// had moved aside: nothing removes them until their destination is written again.
func (o *Output) Abandoned() []string { return o.left }

// abandoned looks for what dead runs have left in parent, except for own.
func abandoned(parent, own string) []string {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil // a directory may be one to write in and not to list
	}
	var left []string
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		name, staging := strings.CutSuffix(e.Name(), stagingSuffix)
		if !staging {
			var old bool
			if name, old = strings.CutSuffix(e.Name(), oldSuffix); !old {
				continue
			}
		}
		if path == own || !e.IsDir() || locked(filepath.Join(parent, name+lockSuffix)) {
			continue
		}
		left = append(left, path)
	}
	return left
}

// File is a file of an Output. It is preallocated to its full size and may be written at any offset from several
// goroutines.
type File struct {
	*os.File
	out     *Output
	rel     string
	partial string // its name until Close
}

// Close writes the file to the disk, past every cache, closes it and gives it its name.
func (f *File) Close() error {
	f.out.mu.Lock()
	delete(f.out.open, f)
	f.out.mu.Unlock()
	if err := f.File.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", f.rel, err), f.File.Close())
	}
	if err := f.File.Close(); err != nil {
		return fmt.Errorf("close %s: %w", f.rel, err)
	}
	if _, err := f.out.root.Lstat(filepath.FromSlash(f.rel)); err == nil {
		return &OutputError{Path: filepath.Join(f.out.dir, filepath.FromSlash(f.rel)), Reason: "another file of the output has a name that this system takes for the same",
			Hint: "rename one of them in the source", Err: fs.ErrExist}
	}
	if err := f.out.root.Rename(f.partial, filepath.FromSlash(f.rel)); err != nil {
		return fmt.Errorf("close %s: %w", f.rel, err)
	}
	return nil
}

// CreateFile makes a new file of the given size, its disk space reserved where the system can. rel uses slashes. Too
// little space is a *SpaceError.
func (o *Output) CreateFile(rel string, size int64) (*File, error) {
	f, err := o.create(rel)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		if err := preallocate(f.File, size); err != nil {
			err = fmt.Errorf("reserve %d bytes for %s: %w", size, rel, err)
			if IsNoSpace(err) {
				if space := CheckSpace(o.staging, size); space != nil {
					err = space
				}
			}
			return nil, errors.Join(err, f.discard())
		}
	}
	return f, nil
}

// discard closes a file that an error has made worthless.
func (f *File) discard() error {
	f.out.mu.Lock()
	delete(f.out.open, f)
	f.out.mu.Unlock()
	return f.File.Close()
}

// WriteFile writes a small file whole. config.json is written last of all, by Commit: loaders start from it.
func (o *Output) WriteFile(rel string, data []byte) error {
	if rel == configName {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.config != nil {
			return fmt.Errorf("create %s: given twice", rel)
		}
		o.config = append([]byte{}, data...)
		return nil
	}
	return o.writeFile(rel, data)
}

func (o *Output) writeFile(rel string, data []byte) error {
	f, err := o.create(rel)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", rel, err), f.discard())
	}
	return f.Close()
}

// CopyFile copies the regular file src, symbolic links followed, and returns the number of bytes.
func (o *Output) CopyFile(rel, src string) (int64, error) {
	if rel == configName {
		raw, err := ReadRegular(src, MaxConfigSize)
		if err != nil {
			return 0, fmt.Errorf("copy %s: %w", rel, err)
		}
		return int64(len(raw)), o.WriteFile(rel, raw)
	}
	in, err := OpenRegular(src)
	if err != nil {
		return 0, fmt.Errorf("copy %s: %w", rel, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, fmt.Errorf("copy %s: %w", rel, err)
	}
	f, err := o.create(rel)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f.File, in) // the *os.File lets the kernel copy, or share blocks
	if err == nil && n != info.Size() {
		err = fmt.Errorf("expected %d bytes, found %d: the file has changed", info.Size(), n)
	}
	if err != nil {
		return n, errors.Join(fmt.Errorf("copy %s: %w", rel, err), f.discard())
	}
	return n, f.Close()
}

// Temp makes a file for data that does not outlive the run. It has no name where the system allows that, so that even
// a killed run leaves nothing of it. The caller closes it.
func (o *Output) Temp() (*os.File, error) {
	name := o.nextPartial()
	f, err := o.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create spill file: %w", err)
	}
	_ = o.root.Remove(name) // refused on Windows while the file is open; Commit removes the directory
	return f, nil
}

// nextPartial is a name that nothing has.
func (o *Output) nextPartial() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.temps++
	return filepath.FromSlash(path.Join(o.attempt, fmt.Sprint(o.temps)))
}

func (o *Output) create(rel string) (*File, error) {
	if reason := UnsafeName(rel); reason != "" {
		return nil, fmt.Errorf("create %q: %s", clip(rel), reason)
	}
	o.mu.Lock()
	if o.files[rel] {
		o.mu.Unlock()
		return nil, fmt.Errorf("create %s: given twice", rel)
	}
	o.files[rel] = true
	for dir := path.Dir(rel); dir != "."; dir = path.Dir(dir) {
		o.dirs[dir] = true
	}
	o.mu.Unlock()
	if dir := path.Dir(rel); dir != "." {
		if err := o.root.MkdirAll(dir, 0o777); err != nil {
			return nil, fmt.Errorf("create %s: %w", rel, err)
		}
	}
	partial := o.nextPartial()
	f, err := o.root.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", rel, err)
	}
	file := &File{File: f, out: o, rel: rel, partial: partial}
	o.mu.Lock()
	o.open[file] = true
	o.mu.Unlock()
	return file, nil
}

// UnsafeName says why rel may not be created in an Output, "" if it may: it must be a plain slash-separated path below the
// directory on every platform.
func UnsafeName(rel string) string {
	switch {
	case rel == "" || rel == ".":
		return "empty name"
	case path.IsAbs(rel) || !filepath.IsLocal(filepath.FromSlash(rel)) || path.Clean(rel) != rel:
		return "not a path below the directory"
	case strings.ContainsAny(rel, "\\:\x00"):
		return "a character that not every system allows"
	case reserved(rel):
		return "a reserved name"
	}
	return ""
}
