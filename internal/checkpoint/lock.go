package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"
)

var errLocked = errors.New("locked by another process")

// dirLock is a lock file beside a destination. The zero value stands for a file system without locks.
type dirLock struct {
	path   string
	file   *flock.Flock
	shared bool
}

// acquire takes the lock without waiting, alone or with others that share it: errLocked if someone has it otherwise. The
// file is removed when one who had it alone releases it, so whoever gets the lock must make sure that the file locked is
// still the one at path.
//
// A file system that cannot lock, or a server that has run out of locks, has no run that could be found: the zero value, and no file is left.
func acquire(path string, shared bool) (l *dirLock, err error) {
	try := (*flock.Flock).TryLock
	if shared {
		try = (*flock.Flock).TryRLock
	}
	for range probes {
		if l, err = acquireBy(path, try); !errors.Is(err, errLocked) {
			break
		}
		time.Sleep(probeTime)
	}
	if l != nil {
		l.shared = shared
	}
	return l, err
}

// Others have a lock for a moment to see whether it is held, see locked.
const (
	probes    = 5
	probeTime = 30 * time.Millisecond
)

func acquireBy(path string, try func(*flock.Flock) (bool, error)) (*dirLock, error) {
	for {
		_, err := os.Lstat(path)
		isNew := errors.Is(err, fs.ErrNotExist)
		l := flock.New(path, flock.SetPermissions(0o666))
		ok, err := try(l)
		if noLocks(err) {
			_ = l.Close() // it was opened before it could not be locked
			if isNew {
				_ = os.Remove(path)
			}
			return &dirLock{}, nil
		}
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, errors.Join(errLocked, l.Close())
		}
		locked, err := l.Stat()
		if err != nil {
			return nil, errors.Join(err, l.Unlock())
		}
		if now, err := os.Lstat(path); err == nil && os.SameFile(locked, now) {
			return &dirLock{path: path, file: l}, nil
		}
		if err := l.Unlock(); err != nil {
			return nil, err
		}
	}
}

// locked reports whether a run holds the lock file at path.
func locked(path string) bool {
	if _, err := os.Lstat(path); err != nil {
		return false
	}
	l := flock.New(path, flock.SetFlag(os.O_RDONLY))
	ok, err := l.TryLock()
	if ok {
		_ = l.Unlock()
	}
	return !ok || err != nil
}

func (l *dirLock) held() bool { return l.file != nil }

// release gives the lock up and removes its file, unless others may share it.
func (l *dirLock) release() error {
	if !l.held() {
		return nil
	}
	if l.shared {
		err := l.file.Unlock()
		l.file = nil
		return err
	}
	// Removed while held, so that nobody can lock a file about to go. Windows refuses that: there it goes afterwards,
	// or stays if another run has it open.
	removed := os.Remove(l.path) == nil
	err := l.file.Unlock()
	l.file = nil
	if !removed {
		_ = os.Remove(l.path)
	}
	return err
}
