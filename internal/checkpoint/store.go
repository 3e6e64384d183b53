package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A RangedFile is a file of the fs.FS given to OpenFS: one that is read by ranges, from several goroutines.
type RangedFile interface {
	fs.File
	io.ReaderAt
}

// A Hinter is a RangedFile that makes use of hints. A file without hints is read as it comes.
type Hinter interface {
	// Prefetch says that n bytes at off will be read.
	Prefetch(off, n int64)
	// Drop says that n bytes at off will not be read again.
	Drop(off, n int64)
}

// storedAtOnce is how many headers of a store are read side by side: what takes time is the way to it and back.
const storedAtOnce = 8

// OpenFS opens the checkpoint in the root of fsys, as Open does a directory's, or the one file of that name there if
// file is not "". dir names the root in messages. Every file must be a RangedFile, and there are no links. If fsys is an io.Closer, closing
// the source closes it; so does an error.
func OpenFS(dir, file string, fsys fs.FS) (*Source, error) {
	s := &Source{Path: dir, Dir: strings.TrimSuffix(dir, "/"), fsys: fsys}
	if file != "" {
		s.Path = s.at(file)
	}
	if err := s.openStored(file); err != nil {
		_ = s.Close() // the first error is the one to tell
		return nil, err
	}
	return s, nil
}

func (s *Source) openStored(file string) error {
	var err error
	if file != "" {
		s.IsFile, s.Base = true, bases[0]
		err = s.openAlone(file)
	} else {
		err = s.findWeights()
	}
	if err != nil {
		return err
	}
	return s.finishOpen()
}

// IsLocal reports whether the source lies in a directory of this machine: Dir is its path then, else only a name.
func (s *Source) IsLocal() bool { return s.fsys == nil }

// at is the path of a file of the source, for messages where it is not local.
func (s *Source) at(rel string) string {
	if s.fsys != nil {
		return strings.TrimSuffix(s.Dir+"/"+rel, "/")
	}
	return filepath.Join(s.Dir, filepath.FromSlash(rel))
}

// ReadDir lists a folder of the source, "" for its root.
func (s *Source) ReadDir(rel string) ([]fs.DirEntry, error) {
	if s.fsys != nil {
		return fs.ReadDir(s.fsys, path.Join(".", rel))
	}
	return os.ReadDir(s.at(rel))
}

// stat describes what e, of which rel is the place, leads to.
func (s *Source) stat(rel string, e fs.DirEntry) (fs.FileInfo, error) {
	if s.fsys != nil {
		return e.Info()
	}
	return os.Stat(s.at(rel))
}

// openIn opens a file of a store.
func openIn(fsys fs.FS, rel string) (RangedFile, int64, error) {
	f, err := fsys.Open(rel)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	r, ok := f.(RangedFile)
	if err == nil && (!ok || !info.Mode().IsRegular()) {
		err = &fs.PathError{Op: "open", Path: rel, Err: errors.New("it cannot be read by ranges")}
	}
	if err != nil {
		_ = f.Close() // the first error is the one to tell
		return nil, 0, err
	}
	return r, info.Size(), nil
}

// readStored reads a file of a store of at most limit bytes.
func (s *Source) readStored(rel string, limit int64) ([]byte, error) {
	f, size, err := openIn(s.fsys, rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, &InputError{File: s.at(rel), Expected: fmt.Sprintf("at most %d bytes", limit), Found: fmt.Sprint(size)}
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err == nil && int64(len(raw)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.at(rel), err)
	}
	return raw, nil
}

// stored is the file of a shard in a store.
type stored struct {
	RangedFile
	path string
}

func (f stored) Name() string { return f.path }

func (s *Source) openStoredShard(name string) (*Shard, error) {
	f, size, err := openIn(s.fsys, name)
	if err != nil {
		return nil, err
	}
	at := s.at(name)
	r, err := storedHeader(at, f, size)
	if err != nil {
		_ = f.Close() // the first error is the one to tell
		return nil, err
	}
	return &Shard{Name: name, Reader: r, file: stored{f, at}}, nil
}

func storedHeader(at string, f RangedFile, size int64) (*safetensors.Reader, error) {
	head := make([]byte, min(size, weightHead))
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("read %s: %w", at, err)
	}
	if err := checkWeightHead(at, head); err != nil {
		return nil, err
	}
	return safetensors.NewNamedReader(at, f, size)
}

// Identity is what tells one content of the shard from another beside its size and header, such as an ETag of the server; "" for
// a local file.
func (sh *Shard) Identity() string {
	if f, ok := sh.file.(*consumed); ok {
		return f.id
	}
	if f, ok := sh.file.(stored); ok {
		if id, ok := f.RangedFile.(interface{ Identity() string }); ok {
			return id.Identity()
		}
	}
	return ""
}

// hinter is what takes hints of a shard, nil if nothing but the system does.
func (t Tensor) hinter() Hinter {
	if f, ok := t.Shard.file.(stored); ok {
		h, _ := f.RangedFile.(Hinter)
		return h
	}
	return nil
}

// Cached reports whether the tensor is at hand, so that hints would be of no use: most of it is in the page cache. It is
// false where that cannot be told.
func (t Tensor) Cached() bool {
	if t.Size() == 0 {
		return true
	}
	return t.hinter() == nil && t.cached()
}

// Prefetch says that n bytes of the tensor at off will be read.
func (t Tensor) Prefetch(off, n int64) {
	if n, ok := t.part(off, n); ok {
		if h := t.hinter(); h != nil {
			h.Prefetch(t.Offset()+off, n)
			return
		}
		t.willNeed(off, n)
	}
}

// Drop says that n bytes of the tensor at off will not be read again.
func (t Tensor) Drop(off, n int64) {
	if n, ok := t.part(off, n); ok {
		if h := t.hinter(); h != nil {
			h.Drop(t.Offset()+off, n)
			return
		}
		t.dontNeed(off, n)
	}
}

// part is how many of n bytes at off are the tensor's.
func (t Tensor) part(off, n int64) (int64, bool) {
	if off < 0 || off >= t.Size() || n <= 0 {
		return 0, false
	}
	return min(n, t.Size()-off), true
}

// CopySide copies a side file of a source.
func (o *Output) CopySide(f SideFile) (int64, error) {
	if f.fsys == nil {
		return o.CopyFile(f.Rel, f.Path)
	}
	in, size, err := openIn(f.fsys, f.Rel)
	if err != nil {
		return 0, fmt.Errorf("copy %s: %w", f.Rel, err)
	}
	defer in.Close()
	if size != f.Size {
		return 0, fmt.Errorf("copy %s: expected %d bytes, found %d: the file has changed", f.Rel, f.Size, size)
	}
	out, err := o.create(f.Rel)
	if err != nil {
		return 0, err
	}
	// Parts of which each is no more than a request: a store reads ahead by itself.
	n, err := io.CopyBuffer(struct{ io.Writer }{out.File}, io.NewSectionReader(in, 0, size), make([]byte, 1<<20))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, errors.Join(fmt.Errorf("copy %s: %w", f.Rel, err), out.discard())
	}
	return n, out.Close()
}
