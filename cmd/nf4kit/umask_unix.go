//go:build unix

package main

import (
	"os"
	"syscall"
)

var processUmask = func() os.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return os.FileMode(m)
}()

// umask is the file mode creation mask, read once before any goroutine runs.
func umask() os.FileMode { return processUmask }
