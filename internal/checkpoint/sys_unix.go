//go:build unix

package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncDir puts a directory's names on the disk. Some file systems cannot, and have nothing to lose either.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// noLocks reports an error of a file system that has no locks, or none left.
func noLocks(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENOLCK)
}

// isMountPoint compares devices; a bind mount of the same device goes unnoticed and fails at the rename.
func isMountPoint(dir string) bool {
	own, errOwn := os.Stat(dir)
	parent, errParent := os.Stat(filepath.Dir(dir))
	if errOwn != nil || errParent != nil {
		return false
	}
	a, okA := own.Sys().(*syscall.Stat_t)
	b, okB := parent.Sys().(*syscall.Stat_t)
	return okA && okB && a.Dev != b.Dev
}

// IsNoSpace reports whether err is of a full disk or an exhausted quota.
func IsNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// IsFileTooLarge reports whether err is of a file beyond what the file system (FAT: 4 GB) or the process (ulimit -f) may have.
func IsFileTooLarge(err error) bool { return errors.Is(err, unix.EFBIG) }
