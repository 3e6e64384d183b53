package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OutputFile is one file in the making, as Output is a directory: it is written beside the destination under another name and a lock, and
// Commit gives it its own. A killed run leaves what it has written under the other name; the next one of the same destination writes over it.
type OutputFile struct {
	*os.File
	dst   string // resolved, absolute
	force bool
	lock  *dirLock
	done  bool
}

// CreateOutputFile prepares to write the file dst. It fails with an *OutputError if dst may not be written: it exists (unless Force), is no
// regular file, is or lies in a source, is being written by another run, or its parent is missing or not writable. Of Options it uses Force and Sources.
func CreateOutputFile(dst string, opt Options) (*OutputFile, error) {
	path, err := resolveDestination(dst)
	if err != nil {
		return nil, err
	}
	if err := checkSources(dst, path, opt.Sources); err != nil {
		return nil, err
	}
	o := &OutputFile{dst: path, force: opt.Force}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.lock, err = acquire(beside(path, lockSuffix), false); err != nil {
		return nil, lockError(dst, path, err)
	}
	if o.File, err = os.OpenFile(beside(path, stagingSuffix), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", dst, err), o.lock.release())
	}
	return o, nil
}

func (o *OutputFile) check() error {
	info, err := os.Lstat(o.dst)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("resolve %s: %w", o.dst, err)
	case !info.Mode().IsRegular():
		return &OutputError{Path: o.dst, Reason: "exists and is " + modeName(info.Mode()), Hint: "name another path", Err: fs.ErrExist}
	case !o.force:
		return &OutputError{Path: o.dst, Reason: "exists", Hint: "--force replaces it", Err: fs.ErrExist}
	}
	return nil
}

// Commit puts the file on the disk and gives it its name. A cancelled context stops it before that. After an error, call Abort.
func (o *OutputFile) Commit(ctx context.Context) error {
	if err := o.Sync(); err != nil {
		return fmt.Errorf("commit %s: %w", o.dst, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := o.check(); err != nil { // somebody else may have written it meanwhile
		return err
	}
	if err := o.Close(); err != nil {
		return fmt.Errorf("commit %s: %w", o.dst, err)
	}
	if err := os.Rename(o.Name(), o.dst); err != nil {
		return fmt.Errorf("commit %s: %w", o.dst, err)
	}
	o.done = true
	if err := errors.Join(syncDir(filepath.Dir(o.dst)), o.lock.release()); err != nil {
		return fmt.Errorf("%s is complete, but its lock could not be removed, or its name not be put on the disk: %w", o.dst, err)
	}
	return nil
}

// Abort removes what was written and leaves the destination as it was. After Commit it does nothing, so that it can be deferred.
func (o *OutputFile) Abort() error {
	if o.done {
		return nil
	}
	o.done = true
	_ = o.Close() // its content is about to go
	if err := errors.Join(os.Remove(o.Name()), o.lock.release()); err != nil {
		return fmt.Errorf("abort %s: %w", o.dst, err)
	}
	return nil
}
