package checkpoint

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

func exchange(a, b string) error { return errors.ErrUnsupported }

// syncDir does nothing: NTFS journals names itself and directories cannot be flushed.
func syncDir(dir string) error { return nil }

func noLocks(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

func isMountPoint(dir string) bool { return false }

// IsNoSpace reports whether err is of a full disk or an exhausted quota.
func IsNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// IsFileTooLarge reports whether err is of a file beyond what the file system may have (FAT: 4 GB).
func IsFileTooLarge(err error) bool { return errors.Is(err, windows.ERROR_FILE_TOO_LARGE) }

func freeSpace(path string) (int64, error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, err
	}
	return mulSaturate(free, 1), nil
}
