package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Left is the staging directory of dst if it is there and no run fills it, else "".
func Left(dst string) string {
	dir, err := resolveDestination(dst)
	if err != nil {
		return ""
	}
	if staging := beside(dir, stagingSuffix); isDir(staging) && !locked(beside(dir, lockSuffix)) {
		return staging
	}
	return ""
}

// join makes a task one of those that fill the staging directory.
func (o *Output) join(dst string, _ bool) error {
	if o.store == nil {
		if err := checkDestination(dst, o.dir, o.force); err != nil {
			return err
		}
	}
	journal := filepath.Join(o.staging, journalDir)
	o.resumed = isDir(journal)
	if err := os.MkdirAll(journal, 0o777); err != nil {
		return fmt.Errorf("create staging directory: %w", err)
	}
	turn, err := acquire(filepath.Join(journal, o.task+lockExt), false)
	if errors.Is(err, errLocked) {
		return &OutputError{Path: dst, Reason: o.task + " is being run by another process", Hint: "wait for it or stop it"}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", o.task, err)
	}
	o.turn = turn
	return o.enter(o.removePartials())
}

// removePartials removes what earlier attempts at the task have not finished.
func (o *Output) removePartials() error {
	dir := filepath.Join(o.staging, partialDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), o.task+"-") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// Adopt takes a finished file of an earlier attempt as one of this. The caller has looked into it by OpenFile.
func (o *Output) Adopt(rel string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[rel] = true
	if o.store != nil {
		o.store.sent[rel] = true
	}
}

// OpenFile opens a finished file for reading. What is no regular file is an error.
func (o *Output) OpenFile(rel string) (*os.File, error) {
	info, err := o.root.Lstat(filepath.FromSlash(rel))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: expected a regular file, found %s", rel, modeName(info.Mode()))
	}
	return o.root.Open(filepath.FromSlash(rel))
}

// Sweep removes what earlier attempts have left and this one has not adopted, so that none of it is committed.
// keepJournal says whether what they have recorded is to stand.
func (o *Output) Sweep(keepJournal bool) error {
	entries, err := os.ReadDir(o.staging)
	if err != nil {
		return fmt.Errorf("clear the staging directory: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == partialDir || name == journalDir && keepJournal || o.files[name] {
			continue
		}
		if err := o.root.RemoveAll(name); err != nil {
			return fmt.Errorf("clear the staging directory: %w", err)
		}
	}
	return nil
}

// Discard removes a finished file that is to be made again.
func (o *Output) Discard(rel string) error {
	if err := o.root.RemoveAll(filepath.FromSlash(rel)); err != nil {
		return fmt.Errorf("clear the staging directory: %w", err)
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// reserved reports whether rel is, or lies in, a directory of staging that the destination does not get.
func reserved(rel string) bool {
	first, _, _ := strings.Cut(rel, "/")
	return slices.ContainsFunc([]string{partialDir, journalDir}, func(dir string) bool { return strings.EqualFold(first, dir) })
}
