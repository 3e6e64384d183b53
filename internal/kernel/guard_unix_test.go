//go:build unix

package kernel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// guarded returns size bytes of memory with an inaccessible page on either side, so that an access beyond the buffer on
// the side where a test puts its slice is a fault.
func guarded(t testing.TB, size int) []byte {
	t.Helper()
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	b := m[page : page+size : page+size]
	if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	return b
}
