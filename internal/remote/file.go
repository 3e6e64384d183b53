package remote

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// headSize is how much of a file comes with the first request: all of a small file, and the header of most shards.
const headSize = 32 << 10

// A file is read by ranges from its server. It implements checkpoint.RangedFile and checkpoint.Hinter.
type file struct {
	pool *pool
	from fetcher
	path string // for messages
	name string

	opening sync.Once
	openErr error
	first   []byte // the first bytes
	header  int64  // the end of the header, if it is one of safetensors
	size    int64

	// Guarded by pool.mu.
	last   int64    // the block furthest on that was read
	window int64    // how many blocks after it are asked for
	apart  struct { // reads that lie by themselves: the block of the last, and how many it had
		block int64
		n     int
	}
}

func (f *file) open(ctx context.Context) error {
	f.opening.Do(func() {
		f.first, f.size, f.openErr = f.from.head(ctx, headSize)
		f.last, f.apart.block = -1, -2
		if len(f.first) >= 8 {
			if n := binary.LittleEndian.Uint64(f.first); n < 1<<40 {
				f.header = 8 + int64(n)
			}
		}
	})
	return f.openErr
}

// Identity is the ETag of the file, or what else its server tells its content by.
func (f *file) Identity() string { return f.from.identity() }

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", f.path, off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > f.size-off {
		p, eof = p[:f.size-off], io.EOF
	}
	done := 0
	if off < int64(len(f.first)) {
		done = copy(p, f.first[off:])
	}
	if done < len(p) && off < f.header && off+int64(len(p)) <= f.header {
		// A header is read once, by one request. Around it are tensors, which nobody may want.
		if err := f.pool.fetch(f, p[done:], off+int64(done)); err != nil {
			return done, err
		}
		return len(p), eof
	}
	for done < len(p) {
		n, err := f.readPart(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, eof
}

// readPart reads what one block, page or request has of p.
func (f *file) readPart(p []byte, off int64) (int, error) {
	c := f.cache(len(p), off)
	if c == nil {
		if err := f.pool.fetch(f, p, off); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	i := off / c.unit
	return f.pool.read(c, f, i, off-i*c.unit, p)
}

// cache decides how a read of n bytes is served: by a block and those ahead of it where reading goes forward, and where it lies
// apart by a page, or, if it is larger, by a request of its own, which is nil.
func (f *file) cache(n int, off int64) *cache {
	p := f.pool
	i := off / blockSize
	p.mu.Lock()
	defer p.mu.Unlock()
	if n <= pageSize && p.pages.held[blockKey{f, off / pageSize}] != nil {
		return &p.pages
	}
	forward := f.last >= 0 && (i == f.last || i == f.last+1) || p.blocks.held[blockKey{f, i}] != nil
	if !forward && n <= largestApart {
		if f.apart.block != i && f.apart.block+1 != i {
			f.apart.n = 0
		}
		f.apart.block = i
		f.apart.n++
		switch {
		case n <= pageSize && f.apart.n < manySmall:
			return &p.pages
		case n > pageSize && f.apart.n == 1:
			return nil
		}
	}
	f.moveOn(i)
	return &p.blocks
}

// moveOn notes that block i is read, and asks for those that follow if reading goes forward.
func (f *file) moveOn(i int64) {
	switch {
	case f.last >= 0 && i > f.last && i <= f.last+near:
		f.last, f.window = i, min(mostAhead, 2*f.window+3)
	case f.last < 0 || i > f.last || i < f.last-near:
		f.last, f.window = i, 0
	}
	if f.pool.blocks.held[blockKey{f, i}] == nil { // before those ahead of it
		if !f.pool.ahead(&f.pool.blocks, f, i) {
			return
		}
	}
	for k := range f.window {
		if !f.pool.ahead(&f.pool.blocks, f, f.last+1+k) {
			return
		}
	}
}

// Prefetch implements checkpoint.Hinter.
func (f *file) Prefetch(off, n int64) {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	end := off + n
	off = max(off, int64(len(f.first)))
	c := &f.pool.blocks
	if n <= pageSize && c.held[blockKey{f, off / blockSize}] == nil {
		c = &f.pool.pages // a record
	}
	for i := off / c.unit; i*c.unit < end; i++ {
		if !f.pool.ahead(c, f, i) {
			return
		}
	}
}

// Drop implements checkpoint.Hinter. What was read is let go without it.
func (f *file) Drop(off, n int64) {}

// handle is an open file.
type handle struct {
	*file
	pos int64
}

func (h *handle) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, h.pos)
	h.pos += int64(n)
	return n, err
}

func (h *handle) Close() error { return nil }
func (h *handle) Stat() (fs.FileInfo, error) {
	return checkpoint.StoredInfo{FileName: h.name, Bytes: h.size}, nil
}
