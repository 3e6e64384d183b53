package checkpoint

import (
	"os"

	"golang.org/x/sys/unix"
)

// preallocate sets the size; space is found missing when it is written.
func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

// exchange swaps two names at once.
func exchange(a, b string) error { return unix.RenamexNp(a, b, unix.RENAME_SWAP) }

func freeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return mulSaturate(st.Bavail, uint64(st.Bsize)), nil
}
