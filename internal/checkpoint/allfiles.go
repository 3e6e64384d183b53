package checkpoint

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// AllFiles lists every file of the model's directory, in the order of names: weights, config.json and whatever else is there. Files and folders whose
// names begin with a dot are left out. Symbolic links are followed as by ReadFile; weights may lie anywhere. What is no regular
// file is an *InputError.
func (s *Source) AllFiles() ([]SideFile, error) {
	w := allWalker{src: s}
	if err := w.dir("", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(w.files, func(a, b SideFile) int { return strings.Compare(a.Rel, b.Rel) })
	return w.files, nil
}

type allWalker struct {
	src     *Source
	files   []SideFile
	entries int
}

func (w *allWalker) dir(rel string, depth int) error {
	entries, err := w.src.ReadDir(rel)
	if err != nil {
		return fmt.Errorf("list source: %w", err)
	}
	if w.entries += len(entries); w.entries > maxSideEntries || depth > maxSideDepth {
		return &InputError{File: w.src.at(rel), Expected: fmt.Sprintf("at most %d files, in folders at most %d deep", maxSideEntries, maxSideDepth), Found: "more",
			Hint: "is this a model directory?"}
	}
	for _, e := range entries {
		sub := path.Join(rel, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		weights := slices.ContainsFunc(w.src.Shards, func(sh *Shard) bool { return sh.Name == sub })
		if w.src.fsys == nil && !weights {
			if err := w.src.checkInside(w.src.at(sub)); err != nil {
				return err
			}
		}
		info, err := w.src.stat(sub, e)
		switch {
		case err != nil:
			return fmt.Errorf("list source: %w", err)
		case info.IsDir():
			if err := w.dir(sub, depth+1); err != nil {
				return err
			}
			continue
		case !info.Mode().IsRegular():
			return &InputError{File: w.src.at(sub), Expected: "a regular file", Found: modeName(info.Mode())}
		}
		w.files = append(w.files, SideFile{Rel: sub, Path: w.src.at(sub), Size: info.Size(), fsys: w.src.fsys})
	}
	return nil
}

// Open opens the file, which must have the size that was listed.
func (f SideFile) Open() (RangedFile, error) {
	var r RangedFile
	var size int64
	var err error
	if f.fsys != nil {
		r, size, err = openIn(f.fsys, f.Rel)
	} else {
		r, size, err = openLocal(f.Path)
	}
	if err != nil {
		return nil, err
	}
	if size != f.Size {
		_ = r.Close() // nothing was read
		return nil, fmt.Errorf("read %s: expected %d bytes, found %d: the file has changed", f.Path, f.Size, size)
	}
	return r, nil
}

func openLocal(path string) (RangedFile, int64, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // the first error is the one to tell
		return nil, 0, err
	}
	return f, info.Size(), nil
}
