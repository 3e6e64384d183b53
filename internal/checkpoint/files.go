package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ReadFile reads a file of the model directory of at most limit bytes, such as one that a manifest names; rel is a local
// path with slashes. It must be a regular file, and symbolic links must not lead out of the directory: their content
// would be told or copied as the model's. A snapshot of a hub cache has its files in the cache's blobs. A file that is
// not there is nil without an error; what is no such file is an *InputError.
func (s *Source) ReadFile(rel string, limit int64) ([]byte, error) {
	if !filepath.IsLocal(filepath.FromSlash(rel)) {
		return nil, &InputError{File: s.Dir, Expected: "a name within the directory", Found: fmt.Sprintf("%q", clip(rel))}
	}
	raw, err := s.readInside(rel, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// readInside reads a file as ReadFile does, but that one that is not there is an error.
func (s *Source) readInside(rel string, limit int64) ([]byte, error) {
	if s.fsys != nil {
		return s.readStored(rel, limit)
	}
	f, err := s.openInside(s.at(rel))
	if err != nil {
		return nil, err
	}
	return readBounded(f, limit)
}

// readAnywhere reads a file whatever links lead to, for what is only looked at.
func (s *Source) readAnywhere(rel string, limit int64) ([]byte, error) {
	if s.fsys != nil {
		return s.readStored(rel, limit)
	}
	return ReadRegular(s.at(rel), limit)
}

// openInside opens a file as ReadFile does; path begins with s.Dir.
func (s *Source) openInside(path string) (*os.File, error) {
	if err := s.checkInside(path); err != nil {
		return nil, err
	}
	return OpenRegular(path)
}

// checkInside refuses links that lead nowhere or out of the places where the model's files may lie.
func (s *Source) checkInside(path string) error {
	real, err := resolve(path)
	if err != nil {
		return linkError(path, err)
	}
	if !slices.ContainsFunc(s.roots, func(root string) bool { return within(root, real) }) {
		return &InputError{File: path, Expected: "a file of the model directory", Found: "a symbolic link to " + real + ", outside of it",
			Hint: "replace the link by the file itself: cp -L follows links"}
	}
	return nil
}

// linkError tells a link to nothing from a file that is not there.
func linkError(path string, err error) error {
	if info, lerr := os.Lstat(path); lerr == nil && info.Mode()&fs.ModeSymlink != 0 && errors.Is(err, fs.ErrNotExist) {
		return &InputError{File: path, Expected: "a file", Found: "a symbolic link to nothing", Hint: "the download is incomplete: fetch the model again"}
	}
	return fmt.Errorf("open source: %w", err)
}

// findRoots settles, once s.Dir is known, where the model's files may lie: in the directory, and in the blobs of the hub
// cache whose snapshot it is or lies in (huggingface_hub, "Understand caching").
func (s *Source) findRoots() error {
	dir, err := resolve(s.Dir)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	s.roots = []string{dir}
	for parent := filepath.Dir(dir); parent != filepath.Dir(parent); parent = filepath.Dir(parent) {
		if filepath.Base(parent) == snapshotsDir {
			repo := filepath.Dir(parent)
			if blobs, err := resolve(filepath.Join(repo, "blobs")); err == nil && isHubCache(repo) { // a link to another disk, it may be
				s.roots = append(s.roots, blobs)
			}
			return nil
		}
	}
	return nil
}

// resolve makes a path absolute, without symbolic links.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// ReadRegular reads a regular file of at most limit bytes, symbolic links followed: one that the user names.
func ReadRegular(path string, limit int64) ([]byte, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	return readBounded(f, limit)
}

// readBounded reads and closes f.
func readBounded(f *os.File, limit int64) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	tooLarge := &InputError{File: f.Name(), Expected: fmt.Sprintf("at most %d bytes", limit), Found: "more"}
	if info.Size() > limit {
		return nil, tooLarge
	}
	var raw bytes.Buffer
	raw.Grow(int(info.Size()) + bytes.MinRead) // so that ReadFrom never moves what it has read
	switch n, err := raw.ReadFrom(io.LimitReader(f, limit+1)); {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	case n > limit: // it has grown since
		return nil, tooLarge
	}
	return raw.Bytes(), nil
}

// OpenRegular opens a regular file for reading, symbolic links followed. Anything else is an *InputError, found before
// it is opened: opening a named pipe would wait for a writer.
func OpenRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, linkError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &InputError{File: path, Expected: "a regular file", Found: modeName(info.Mode())}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	return f, nil
}

func modeName(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "something else"
}

// within reports whether p is dir or below it; both must be resolved.
func within(dir, p string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

const snapshotsDir = "snapshots"

// isHubCache tells a model's directory in a hub cache from one that happens to hold a directory called snapshots.
func isHubCache(dir string) bool {
	if strings.HasPrefix(filepath.Base(dir), "models--") {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "refs"))
	return err == nil
}
