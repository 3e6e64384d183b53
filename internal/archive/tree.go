package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// blockSize is what headers and contents of a tar archive are rounded up to.
const blockSize = 512

// Limits of an archive. maxName is what file systems take for a path.
const (
	maxEntries = 100_000
	maxName    = 4096
)

// An entry is a file of an archive.
type entry struct {
	name string // with slashes, below the model's directory
	off  int64  // of its content, among all that is packed
	size int64
}

// A nameSet knows the files and directories of a tree, and which names some systems take for the same.
type nameSet map[string]node

type node struct {
	name string // as it was spelled
	dir  bool
}

// fold is what a name is to systems that do not tell upper and lower case apart.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name)
}

// add takes a file, and says what is wrong with its name, "" if nothing.
func (s nameSet) add(name string) string {
	if len(name) > maxName {
		return fmt.Sprintf("a path of %d bytes", len(name))
	}
	if reason := checkpoint.UnsafeName(name); reason != "" {
		return reason
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		switch n, ok := s[fold(dir)]; {
		case !ok:
			s[fold(dir)] = node{dir, true}
		case n.name != dir:
			return fmt.Sprintf("a directory beside %q, which some systems take for the same", n.name)
		case !n.dir:
			return fmt.Sprintf("a file in %q, which is a file", n.name)
		}
	}
	switch n, ok := s[fold(name)]; {
	case !ok:
		s[fold(name)] = node{name, false}
		return ""
	case n.name != name:
		return fmt.Sprintf("a file beside %q, which some systems take for the same", n.name)
	case n.dir:
		return "a file in the place of a directory"
	}
	return "a file that is there twice"
}

// readEntries lists the files of the archive that r has, size bytes, from its headers alone, and takes away the directory that they lie in
// together. Errors are of the archive named name.
func readEntries(name string, r io.ReaderAt, size int64) ([]entry, error) {
	bad := func(expected, found string) error {
		return &checkpoint.InputError{File: name, Expected: expected, Found: found, Hint: "nf4kit pack makes none like it: do not trust the file"}
	}
	var list []entry
	names := nameSet{}
	for off, n := int64(0), 0; ; n++ {
		if n > maxEntries {
			return nil, bad(fmt.Sprintf("at most %d entries", maxEntries), "more")
		}
		section := io.NewSectionReader(r, off, size-off)
		h, err := tar.NewReader(section).Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if as := (&checkpoint.InputError{}); errors.As(err, &as) {
				return nil, err // of a frame
			}
			return nil, &checkpoint.InputError{File: name, Expected: fmt.Sprintf("a tar header at byte %d of the archive", off), Found: "none", Hint: truncatedHint, Err: err}
		}
		at, _ := section.Seek(0, io.SeekCurrent) // where a section reader is, it knows
		e := entry{strings.TrimPrefix(h.Name, "./"), off + at, h.Size}
		if e.size < 0 || e.size > size-e.off {
			return nil, bad(fmt.Sprintf("%s within the archive's %d bytes", quote(e.name), size), fmt.Sprintf("%d bytes at %d", e.size, e.off))
		}
		off = (e.off + e.size + blockSize - 1) / blockSize * blockSize
		if off > size {
			return nil, bad("the archive's end after "+quote(e.name), "no more bytes")
		}
		switch {
		case h.Typeflag == tar.TypeXGlobalHeader, h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg || sparse(h):
			return nil, bad("regular files and directories alone", fmt.Sprintf("%s, %s", quote(e.name), kind(h)))
		}
		if reason := names.add(e.name); reason != "" {
			return nil, bad("names of files below one directory", fmt.Sprintf("%s: %s", quote(e.name), reason))
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, bad("files", "none")
	}
	return strip(list), nil
}

func quote(s string) string {
	if len(s) > 120 {
		s = s[:120]
	}
	return fmt.Sprintf("%q", s)
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func kind(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink:
		return "a link to " + quote(h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return "a device or pipe"
	}
	return fmt.Sprintf("of type %q", h.Typeflag)
}

// strip takes from all names the directories that they have in common.
func strip(list []entry) []entry {
	common := path.Dir(list[0].name)
	for _, e := range list {
		for common != "." && !strings.HasPrefix(e.name, common+"/") {
			common = path.Dir(common)
		}
	}
	if common != "." {
		for i := range list {
			list[i].name = list[i].name[len(common)+1:]
		}
	}
	return list
}

// A FS is the files of a packed checkpoint, as checkpoint.OpenFS takes them: they are read by ranges, and not told from those of a
// directory.
type FS struct {
	name     string // of the packed file, for messages
	identity string
	reader   *reader
	entries  []entry // in the order of the archive
	files    map[string]*entry
	dirs     checkpoint.Listing
	under    io.Closer
}

// NewFS opens a packed checkpoint of size bytes, and reads its table and its headers. name is for messages; identity tells the content of the file
// from what it may become. Close closes under, if it is not nil; so does an error.
func NewFS(name, identity string, r io.ReaderAt, size int64, under io.Closer) (_ *FS, err error) {
	f := &FS{name: name, identity: identity, files: map[string]*entry{}, dirs: checkpoint.Listing{}, under: under}
	defer func() {
		if err != nil {
			_ = f.Close() // the first error is the one to tell
		}
	}()
	if f.reader, err = newReader(name, r, size); err != nil {
		return nil, err
	}
	if f.entries, err = readEntries(name, f.reader, f.reader.table.size()); err != nil {
		return nil, err
	}
	for i := range f.entries {
		e := &f.entries[i]
		f.files[e.name] = e
		f.dirs.Add(e.name, e.size)
	}
	return f, nil
}

// Close waits for what is being decompressed. Files cannot be read afterwards.
func (f *FS) Close() error {
	if f.reader != nil {
		f.reader.close()
		f.reader = nil
	}
	if f.under == nil {
		return nil
	}
	return f.under.Close()
}

// ReadDir implements fs.ReadDirFS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	return f.dirs.Read(f.name, name)
}

// Open implements fs.FS. The files are checkpoint.RangedFile and checkpoint.Hinter.
func (f *FS) Open(name string) (fs.File, error) {
	e := f.files[name]
	if e == nil {
		return nil, &fs.PathError{Op: "open", Path: f.name + "/" + name, Err: fs.ErrNotExist}
	}
	return &file{io.NewSectionReader(f.reader, e.off, e.size), f, e}, nil
}

// A file is an open one.
type file struct {
	*io.SectionReader
	fs *FS
	e  *entry
}

func (f *file) Close() error { return nil }
func (f *file) Stat() (fs.FileInfo, error) {
	return checkpoint.StoredInfo{FileName: path.Base(f.e.name), Bytes: f.e.size}, nil
}

// Prefetch implements checkpoint.Hinter.
func (f *file) Prefetch(off, n int64) {
	if off >= 0 && off < f.e.size {
		f.fs.reader.prefetch(f.e.off+off, min(n, f.e.size-off))
	}
}

// Drop implements checkpoint.Hinter. What was read goes without it.
func (f *file) Drop(off, n int64) {}

// Identity is that of the packed file.
func (f *file) Identity() string { return f.fs.identity }
