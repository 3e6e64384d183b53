package remote

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// A tree is the files of a source as a file system. Files are asked for when they are opened.
type tree struct {
	pool *pool
	top  string // names the root in messages

	mu    sync.Mutex
	files map[string]*entry
	dirs  checkpoint.Listing

	// seek looks for a file that is not listed, fs.ErrNotExist if there is none. Nil where the list is complete.
	seek func(name string) fetcher
}

// An entry is a file of a tree.
type entry struct {
	size  int64
	local string // where this machine has it, "" if it does not
	id    string // of its content, as the server has it
	file  *file
}

// A localFile is one that a cache has of what a server has.
type localFile struct {
	*os.File
	id string
}

// Identity is the same as that of the file at the server.
func (f *localFile) Identity() string { return f.id }

// newTree makes an empty tree, whose requests end with ctx.
func newTree(ctx context.Context, c *client, top string) *tree {
	return &tree{pool: newPool(ctx, c.conns), top: strings.TrimSuffix(top, "/"), files: map[string]*entry{}, dirs: checkpoint.Listing{}}
}

// add lists a file: one that from has, or that lies at local. Names that no directory could have are left out.
func (t *tree) add(name string, size int64, from fetcher, local string) *entry {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") || t.files[name] != nil {
		return nil
	}
	e := &entry{size: size, local: local}
	if from != nil {
		e.id = from.identity()
		e.file = &file{pool: t.pool, from: from, path: t.top + "/" + name, name: path.Base(name), size: size}
	}
	t.files[name] = e
	t.dirs.Add(name, size)
	return e
}

// ReadDir implements fs.ReadDirFS.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dirs.Read(t.top, name)
}

// Open implements fs.FS. The files are *handle, or *os.File where this machine has them.
func (t *tree) Open(name string) (fs.File, error) {
	t.mu.Lock()
	e := t.files[name]
	if e == nil && t.seek != nil && fs.ValidPath(name) {
		if from := t.seek(name); from != nil {
			e = t.add(name, -1, from, "")
		}
	}
	t.mu.Unlock()
	switch {
	case e == nil:
		return nil, &fs.PathError{Op: "open", Path: t.top + "/" + name, Err: fs.ErrNotExist}
	case e.local != "":
		f, err := os.Open(e.local)
		if err != nil {
			return nil, err
		}
		return &localFile{f, e.id}, nil
	}
	if err := e.file.open(t.pool.ctx); err != nil {
		if errors.Is(err, fs.ErrNotExist) && e.size < 0 {
			t.forget(name)
		}
		return nil, err
	}
	return &handle{file: e.file}, nil
}

// forget takes a file out of the list that its server turns out not to have.
func (t *tree) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.files, name)
	t.dirs.Remove(name)
}

// Close ends every request. Files cannot be read afterwards.
func (t *tree) Close() error {
	t.pool.close()
	return nil
}
