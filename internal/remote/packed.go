package remote

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/nf4kit/nf4kit/internal/archive"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// openPacked opens a packed checkpoint of this machine.
func openPacked(path string) (*checkpoint.Source, error) {
	f, err := checkpoint.OpenRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &checkpoint.MissingError{Path: path, Err: errors.Unwrap(err)} // both say what was tried
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return unpacked(path, "changed "+info.ModTime().UTC().Format(time.RFC3339Nano), f, info.Size(), f)
}

// isPacked reports whether path is a packed checkpoint by its name, and not a directory that is called so.
func isPacked(path string) bool {
	if !archive.IsName(path) {
		return false
	}
	info, err := os.Stat(path)
	return err != nil || !info.IsDir()
}

// unpacked opens the checkpoint in a packed file, and closes under with it.
func unpacked(path, identity string, r io.ReaderAt, size int64, under io.Closer) (*checkpoint.Source, error) {
	f, err := archive.NewFS(path, identity, r, size, under)
	if err != nil {
		return nil, err
	}
	return checkpoint.OpenFS(path, "", f)
}

// source opens the checkpoint in the root of the tree, or its one file of that name, which may be a packed one. An error closes the tree.
func (t *tree) source(file string) (*checkpoint.Source, error) {
	if !archive.IsName(file) {
		return checkpoint.OpenFS(t.top, file, t)
	}
	path := t.top + "/" + file
	f, err := t.Open(file)
	if err != nil {
		_ = t.Close() // the first error is the one to tell
		if errors.Is(err, fs.ErrNotExist) {
			err = &Error{Path: path, Found: "no such file", Err: fs.ErrNotExist, Hint: "check the address"}
		}
		return nil, err
	}
	info, err := f.Stat()
	r, ok := f.(checkpoint.RangedFile)
	if err != nil || !ok {
		_ = t.Close() // the first error is the one to tell
		return nil, fmt.Errorf("read %s: it cannot be read by ranges: %w", path, err)
	}
	identity := ""
	if id, ok := f.(interface{ Identity() string }); ok {
		identity = id.Identity()
	}
	return unpacked(path, identity, r, info.Size(), t)
}
