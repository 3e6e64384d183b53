//go:build !linux

package checkpoint

// Cached reports whether most of the tensor is in the page cache; this system cannot tell, and is taken to manage by
// itself.
func (t Tensor) Cached() bool { return true }

// Prefetch asks the system to read n bytes of the tensor at off ahead of time.
func (t Tensor) Prefetch(off, n int64) {}

// Drop tells the system that n bytes of the tensor at off will not be read again.
func (t Tensor) Drop(off, n int64) {}

// StartWriteback asks the system to begin writing n bytes at off to the disk, so that Close has less to wait for.
func (s *ShardWriter) StartWriteback(off, n int64) {}
