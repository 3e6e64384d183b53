package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// resolveDestination makes dst absolute with every symbolic link resolved; its last element need not exist.
func resolveDestination(dst string) (string, error) {
	if dst == "" {
		return "", &OutputError{Path: `""`, Reason: "the destination has no name"}
	}
	abs, err := filepath.Abs(dst)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", dst, err)
	}
	if info, err := os.Lstat(abs); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		// Renaming onto a link would replace the link and leave what it points to.
		resolved, err := filepath.EvalSymlinks(abs)
		if err != nil {
			return "", &OutputError{Path: dst, Reason: "a symbolic link to nothing", Err: err}
		}
		return resolved, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &OutputError{Path: dst, Reason: "its parent directory " + filepath.Dir(abs) + " does not exist",
			Hint: "create it first", Err: fs.ErrNotExist}
	case err != nil:
		return "", fmt.Errorf("resolve %s: %w", dst, err)
	}
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		return "", &OutputError{Path: dst, Reason: parent + " is not a directory", Err: err}
	}
	if filepath.Dir(abs) == abs {
		return "", &OutputError{Path: dst, Reason: "the root directory", Hint: "name a directory to be created"}
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// checkSources refuses a destination that is a source, lies in one or contains one. Directories are compared by
// identity, so that neither links nor letter case hide one.
func checkSources(dst, dir string, sources []string) error {
	for _, src := range sources {
		resolved, err := filepath.EvalSymlinks(src)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is not on this machine
		}
		if err != nil {
			return fmt.Errorf("resolve %s: %w", src, err)
		}
		if resolved, err = filepath.Abs(resolved); err != nil {
			return fmt.Errorf("resolve %s: %w", src, err)
		}
		switch {
		case same(dir, resolved):
			return &OutputError{Path: dst, Reason: "the same as the source " + src, Hint: "name another directory"}
		case below(dir, resolved):
			return &OutputError{Path: dst, Reason: "inside the source " + src, Hint: "name a directory elsewhere"}
		case below(resolved, dir):
			return &OutputError{Path: dst, Reason: "contains the source " + src, Hint: "name another directory"}
		}
	}
	return nil
}

func same(a, b string) bool {
	if a == b {
		return true
	}
	ia, errA := os.Stat(a)
	ib, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(ia, ib)
}

// below reports whether p lies somewhere in dir; p need not exist.
func below(p, dir string) bool {
	for parent := filepath.Dir(p); ; parent = filepath.Dir(parent) {
		if same(parent, dir) {
			return true
		}
		if filepath.Dir(parent) == parent {
			return false
		}
	}
}

// checkDestination refuses what must not be replaced.
func checkDestination(dst, dir string, force bool) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("resolve %s: %w", dst, err)
	}
	if !info.IsDir() {
		return &OutputError{Path: dst, Reason: "exists and is not a directory", Hint: "name another path", Err: fs.ErrExist}
	}
	empty, err := isEmpty(dir)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", dst, err)
	}
	others, err := holdsModels(dir)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", dst, err)
	}
	const hint = "name a directory below it, to be created"
	if !empty && !force {
		e := &OutputError{Path: dst, Reason: "exists and is not empty", Hint: "--force replaces it", Err: fs.ErrExist}
		if others {
			e.Hint = hint
		}
		return e
	}
	// The directory itself is replaced, so it must not be one that others stand on.
	if wd, err := os.Getwd(); err == nil && (same(wd, dir) || below(wd, dir)) {
		return &OutputError{Path: dst, Reason: "holds the working directory", Hint: hint}
	}
	if home, err := os.UserHomeDir(); err == nil && (same(home, dir) || below(home, dir)) {
		return &OutputError{Path: dst, Reason: "holds the home directory", Hint: hint}
	}
	if isMountPoint(dir) {
		return &OutputError{Path: dst, Reason: "a mount point, which cannot be replaced", Hint: hint}
	}
	if others {
		// The name of the directory that models are kept in is easily given for that of one.
		return &OutputError{Path: dst, Reason: "it holds directories of models, and is none itself", Hint: hint, Err: fs.ErrExist}
	}
	return nil
}

// holdsModels reports whether directories in dir are models or adapters, while dir is none.
func holdsModels(dir string) (bool, error) {
	found, dirs, err := holdsModel(dir)
	for _, name := range dirs {
		if found || err != nil {
			return false, err
		}
		if inner, _, err := holdsModel(filepath.Join(dir, name)); err == nil && inner { // what cannot be read is not told from other things
			return true, nil
		}
	}
	return false, err
}

// holdsModel reports whether a file directly in dir is one of a model or of an adapter, and which directories there are.
func holdsModel(dir string) (found bool, dirs []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		} else if ofModel(e.Name()) {
			found = true
		}
	}
	return found, dirs, err
}

// ofModel reports whether a name is one by which a directory is told to be a model's, whole or in part, or a pipeline's of several.
func ofModel(name string) bool {
	switch name {
	case configName, "model_index.json", "modules.json", "adapter_config.json", "nf4kit.json":
		return true
	}
	return path.Ext(name) == weightExt || strings.HasSuffix(name, indexSuffix)
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// existing is path or its nearest ancestor that exists.
func existing(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	for ; filepath.Dir(abs) != abs; abs = filepath.Dir(abs) {
		if _, err := os.Stat(abs); err == nil {
			break
		}
	}
	return abs
}

// CheckSpace fails with a *SpaceError if the file system of path, or of its nearest ancestor that exists, has less than
// need bytes left for this user. Where the system cannot tell, it passes.
func CheckSpace(path string, need int64) error {
	free, err := freeSpace(existing(path))
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", path, err)
	}
	if free < need {
		return &SpaceError{Path: path, Need: need, Free: free}
	}
	return nil
}

// mulSaturate multiplies without passing 2^63-1.
func mulSaturate(blocks, size uint64) int64 {
	hi, lo := bits.Mul64(blocks, size)
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}
