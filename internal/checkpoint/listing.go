package checkpoint

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// A Listing is the directories of a file system that is given to OpenFS, "." its root: what each has in it.
type Listing map[string][]fs.DirEntry

// Add lists a file, and the directories that it lies in.
func (l Listing) Add(name string, size int64) {
	if l["."] == nil {
		l["."] = []fs.DirEntry{}
	}
	var d fs.DirEntry = StoredInfo{path.Base(name), size, false}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		_, known := l[dir]
		l[dir] = append(l[dir], d)
		if known {
			return
		}
		d = StoredInfo{path.Base(dir), 0, true}
	}
}

// Remove takes a file out again.
func (l Listing) Remove(name string) {
	dir := path.Dir(name)
	l[dir] = slices.DeleteFunc(l[dir], func(d fs.DirEntry) bool { return d.Name() == path.Base(name) })
}

// Read is the entries of a directory, in the order of names; top names the root in messages.
func (l Listing) Read(top, name string) ([]fs.DirEntry, error) {
	list, ok := l[name]
	if !ok && name != "." {
		return nil, &fs.PathError{Op: "open", Path: top + "/" + name, Err: fs.ErrNotExist}
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// StoredInfo describes a file or directory of a file system that is given to OpenFS.
type StoredInfo struct {
	FileName string
	Bytes    int64
	Dir      bool
}

// Name implements fs.FileInfo and fs.DirEntry.
func (i StoredInfo) Name() string { return i.FileName }

// Size implements fs.FileInfo.
func (i StoredInfo) Size() int64 { return i.Bytes }

// ModTime implements fs.FileInfo: it is not known.
func (i StoredInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo and fs.DirEntry.
func (i StoredInfo) IsDir() bool { return i.Dir }

// Sys implements fs.FileInfo.
func (i StoredInfo) Sys() any { return nil }

// Type implements fs.DirEntry.
func (i StoredInfo) Type() fs.FileMode { return i.Mode().Type() }

// Info implements fs.DirEntry.
func (i StoredInfo) Info() (fs.FileInfo, error) { return i, nil }

// Mode implements fs.FileInfo: everything may be read.
func (i StoredInfo) Mode() fs.FileMode {
	if i.Dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
