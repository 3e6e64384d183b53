package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Commit gives the directory its name. Every file has been written to the disk by its Close; config.json follows,
// then every directory, then the rename, then the parent directory. Until the rename nothing of the destination has
// changed, and a cancelled context stops Commit; from then on it runs to its end. After an error, call Abort.
func (o *Output) Commit(ctx context.Context) error {
	if o.done {
		panic("checkpoint: Commit of an Output that is finished")
	}
	if len(o.open) > 0 {
		names := make([]string, 0, len(o.open))
		for f := range o.open {
			names = append(names, f.rel)
		}
		slices.Sort(names)
		return fmt.Errorf("commit %s: not closed: %s", o.dir, strings.Join(names, ", "))
	}
	if o.task != "" {
		panic("checkpoint: Commit of a task")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.config != nil {
		if err := o.writeFile(configName, o.config); err != nil {
			return err
		}
		o.config = nil
	}
	if o.store != nil {
		return o.commitStored(ctx)
	}
	if err := o.root.RemoveAll(partialDir); err != nil {
		return fmt.Errorf("commit %s: %w", o.dir, err)
	}
	for _, dir := range slices.Sorted(maps.Keys(o.dirs)) {
		if err := syncDir(filepath.Join(o.staging, filepath.FromSlash(dir))); err != nil {
			return fmt.Errorf("commit %s: %w", o.dir, err)
		}
	}
	if err := syncDir(o.staging); err != nil {
		return fmt.Errorf("commit %s: %w", o.dir, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := o.parkJournal(); err != nil {
		return fmt.Errorf("commit %s: %w", o.dir, err)
	}
	switch err := o.publish(); {
	case err == nil:
		return nil
	case o.done:
		return fmt.Errorf("%s is complete, but what it has replaced or its lock could not be removed, or its name not be put on the disk: %w", o.dir, err)
	default:
		return fmt.Errorf("commit %s: %w", o.dir, err)
	}
}

// publish puts the staging directory in the destination's place.
func (o *Output) publish() error {
	if err := o.root.Close(); err != nil { // Windows does not rename a directory that is open
		return err
	}
	old, err := o.rename()
	if err != nil {
		return errors.Join(err, recoverJournal(o.dir))
	}
	o.done = true
	errs := []error{syncDir(filepath.Dir(o.dir)), os.RemoveAll(beside(o.dir, journalSuffix))}
	if old != "" {
		errs = append(errs, os.RemoveAll(old))
	}
	return errors.Join(append(errs, o.lock.release())...)
}

// rename moves staging to the destination and returns the path of what was there and has to be removed, "" if nothing.
func (o *Output) rename() (old string, err error) {
	info, err := os.Lstat(o.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", os.Rename(o.staging, o.dir)
	case err != nil:
		return "", err
	}
	// A directory that is replaced keeps who may enter it.
	if err := os.Chmod(o.staging, info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return "", err
	}
	// An empty directory goes by Remove, which refuses one that has been filled meanwhile.
	if empty, err := isEmpty(o.dir); err == nil && empty {
		if err := os.Remove(o.dir); err != nil {
			return "", err
		}
		if err := os.Rename(o.staging, o.dir); err != nil {
			return "", errors.Join(err, os.Mkdir(o.dir, info.Mode().Perm()))
		}
		return "", nil
	}
	if !o.force {
		return "", &OutputError{Path: o.dir, Reason: "exists and is not empty", Err: fs.ErrExist}
	}
	if err := o.swap(o.staging, o.dir); err == nil {
		return o.staging, nil
	}
	aside := beside(o.dir, oldSuffix)
	if err := os.Rename(o.dir, aside); err != nil {
		return "", err
	}
	if err := os.Rename(o.staging, o.dir); err != nil {
		return "", errors.Join(err, os.Rename(aside, o.dir))
	}
	return aside, nil
}

// recoverOld finishes what a run began that died between its two renames: if the new directory has not come, the old
// one returns to its place; if it has, the old one goes.
func recoverOld(dir string) error {
	aside := beside(dir, oldSuffix)
	if _, err := os.Lstat(aside); err != nil {
		return nil // nothing to recover
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(aside, dir); err != nil {
			return fmt.Errorf("restore what an interrupted run moved aside: %w", err)
		}
		return nil
	}
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove what an interrupted run has replaced: %w", err)
	}
	return nil
}

// Abort removes everything written, from a store too, and leaves the destination as it was. Of a staging directory that tasks
// share it removes what this attempt at one has made, its journal included. After Commit or Suspend it does nothing, so that it
// can be deferred.
func (o *Output) Abort() error {
	if o.done {
		return nil
	}
	if o.task != "" {
		withdraw := o.journal != nil
		err := o.closeAll()
		if withdraw {
			err = errors.Join(err, os.Remove(filepath.Join(o.staging, journalDir, path.Base(o.attempt)+journalExt)))
		}
		return errors.Join(err, o.suspend())
	}
	errs := []error{o.closeAll(), o.withdraw(), os.RemoveAll(o.staging), o.lock.release()}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("abort %s: %w", o.Dir(), err)
	}
	return nil
}

// Suspend ends the run and leaves in the staging directory what has been recorded, and the destination as it was.
func (o *Output) Suspend() error {
	if o.done {
		return nil
	}
	return errors.Join(o.closeAll(), o.suspend())
}

func (o *Output) suspend() error {
	errs := []error{os.RemoveAll(filepath.Join(o.staging, filepath.FromSlash(o.attempt)))}
	if o.turn != nil {
		errs = append(errs, o.turn.release())
		o.turn = nil
	}
	// What others have something in stays.
	for _, dir := range []string{partialDir, journalDir, "."} {
		_ = os.Remove(filepath.Join(o.staging, dir))
	}
	errs = append(errs, o.lock.release())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("suspend %s: %w", o.dir, err)
	}
	return nil
}

// closeAll closes what is open, before it is removed or left.
func (o *Output) closeAll() error {
	o.done = true
	for f := range o.open {
		_ = f.File.Close() // its content is about to go
	}
	clear(o.open)
	_ = o.root.Close() // closed already if the rename failed
	if o.journal != nil {
		return o.journal.Close()
	}
	return nil
}

func (o *Output) releaseLocks() error {
	var errs []error
	if o.turn != nil {
		errs = append(errs, o.turn.release())
	}
	return errors.Join(append(errs, o.lock.release())...)
}
