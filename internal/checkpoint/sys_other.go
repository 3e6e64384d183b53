//go:build unix && !linux && !darwin

package checkpoint

import (
	"errors"
	"os"
)

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

func exchange(a, b string) error { return errors.ErrUnsupported }

func freeSpace(path string) (int64, error) { return 0, errors.ErrUnsupported }
