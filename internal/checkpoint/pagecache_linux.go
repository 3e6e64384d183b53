package checkpoint

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// cached reports whether most of the tensor is in the page cache; false where the system cannot tell.
func (t Tensor) cached() bool {
	if t.Size() == 0 {
		return true
	}
	cached := false
	t.control(func(fd int) {
		var st unix.Cachestat_t
		r := unix.CachestatRange{Off: uint64(t.Offset()), Len: uint64(t.Size())}
		if unix.Cachestat(uint(fd), &r, &st, 0) == nil {
			cached = st.Cache > uint64(t.Size())/uint64(2*unix.Getpagesize())
		}
	})
	return cached
}

func (t Tensor) willNeed(off, n int64) { t.advise(off, n, unix.FADV_WILLNEED) }
func (t Tensor) dontNeed(off, n int64) { t.advise(off, n, unix.FADV_DONTNEED) }

func (t Tensor) advise(off, n int64, advice int) {
	t.control(func(fd int) {
		_ = unix.Fadvise(fd, t.Offset()+off, n, advice) // advice: nothing depends on it
	})
}

func (t Tensor) control(f func(fd int)) {
	var file any = t.Shard.file
	if s, ok := file.(stored); ok {
		file = s.RangedFile // one that the store has on this machine
	}
	sc, ok := file.(syscall.Conn)
	if !ok {
		return
	}
	c, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { f(int(fd)) })
}

// StartWriteback asks the system to begin writing n bytes at off to the disk, so that Close has less to wait for.
func (s *ShardWriter) StartWriteback(off, n int64) {
	c, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) })
}
