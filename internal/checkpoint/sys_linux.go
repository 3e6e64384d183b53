package checkpoint

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// preallocate reserves size bytes, so that a full disk is found before the work and not after it. A file system that
// cannot reserve gives a file of that size with holes, and so does one in memory: there to reserve is to clear every page, by
// one thread and before the work begins.
func preallocate(f *os.File, size int64) error {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &st)
	if err == nil && st.Type == unix.TMPFS_MAGIC {
		return f.Truncate(size)
	}
	for {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return f.Truncate(size)
	}
	return err
}

// exchange swaps two names at once.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

func freeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return mulSaturate(st.Bavail, uint64(st.Bsize)), nil
}
