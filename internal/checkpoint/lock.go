package checkpoint

import (
	"errors"
	"os"

	"github.com/gofrs/flock"
)

var errLocked = errors.New("locked by another process")

// dirLock is a lock file beside a destination. The zero value stands for a file system without locks.
type dirLock struct {
	path string
	file *flock.Flock
}

// acquire takes the lock without waiting: errLocked if someone has it. The file is removed on release, so whoever gets
// the lock must make sure that the file locked is still the one at path.
func acquire(path string) (*dirLock, error) {
	for {
		l := flock.New(path, flock.SetPermissions(0o666))
		ok, err := l.TryLock()
		if errors.Is(err, errors.ErrUnsupported) {
			return &dirLock{}, nil
		}
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, errLocked
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

func (l *dirLock) held() bool { return l.file != nil }

// release gives the lock up and removes its file.
func (l *dirLock) release() error {
	if !l.held() {
		return nil
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
