package manifest

import (
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// A Recorder computes the digests of tensors while they are written, in any order of ranges, from several goroutines.
//
// BLAKE3 takes its input from first to last, so a range that comes before its turn is copied and waits. A writer whose
// workers take ranges in order keeps no more of them waiting than it has workers.
type Recorder struct {
	mu      sync.Mutex
	tensors map[string]*tensorHash
	copies  copies
	hashers sync.Pool // *blake3.Hasher, of 10 KB: a model has a hundred thousand tensors, and a few of them are under way
}

type tensorHash struct {
	mu      sync.Mutex
	h       *blake3.Hasher // nil before the first byte and after the last
	size    int64
	next    int64 // bytes hashed
	waiting map[int64][]byte
	digest  Digest // once all are
}

// copies recycles the memory of ranges that wait: over a file they are as large as it is.
type copies struct {
	mu   sync.Mutex
	free [][]byte
}

func (c *copies) of(p []byte) []byte {
	c.mu.Lock()
	var buf []byte
	if last := len(c.free) - 1; last >= 0 {
		buf, c.free = c.free[last], c.free[:last]
	}
	c.mu.Unlock()
	return append(buf[:0], p...)
}

func (c *copies) release(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, p)
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder {
	return &Recorder{tensors: make(map[string]*tensorHash), hashers: sync.Pool{New: func() any { return blake3.New() }}}
}

// Add announces a tensor of that many bytes. Every tensor must be announced before its first byte is written.
func (r *Recorder) Add(tensor string, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &tensorHash{size: size}
	if size == 0 {
		t.digest = Sum(nil)
	}
	r.tensors[tensor] = t
}

// WriteAt takes bytes of a tensor. Ranges must not overlap and p is not kept.
func (r *Recorder) WriteAt(tensor string, p []byte, off int64) error {
	r.mu.Lock()
	t := r.tensors[tensor]
	r.mu.Unlock()
	if t == nil || off < 0 || off > t.size-int64(len(p)) {
		return fmt.Errorf("manifest: internal error: %d bytes at %d lie outside %s", len(p), off, tensor)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) == 0 {
		return nil
	}
	if off != t.next {
		if t.waiting == nil {
			t.waiting = make(map[int64][]byte)
		}
		t.waiting[off] = r.copies.of(p)
		return nil
	}
	if t.h == nil {
		t.h = r.hashers.Get().(*blake3.Hasher)
	}
	t.write(p)
	for {
		q, ok := t.waiting[t.next]
		if !ok {
			break
		}
		delete(t.waiting, t.next)
		t.write(q)
		r.copies.release(q)
	}
	if t.next == t.size {
		t.h.Sum(t.digest[:0])
		t.h.Reset()
		r.hashers.Put(t.h)
		t.h, t.waiting = nil, nil
	}
	return nil
}

func (t *tensorHash) write(p []byte) {
	_, _ = t.h.Write(p) // a hash never fails
	t.next += int64(len(p))
}

// Digest returns the digest of a tensor that was announced. It fails if some byte was not written.
func (r *Recorder) Digest(tensor string) (Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tensors[tensor]
	if t == nil {
		return Digest{}, fmt.Errorf("manifest: internal error: %s was not announced", tensor)
	}
	return t.whole(tensor)
}

// whole is the digest of all of the tensor.
func (t *tensorHash) whole(name string) (Digest, error) {
	if t.next != t.size {
		return Digest{}, fmt.Errorf("manifest: internal error: %d of %d bytes of %s were hashed", t.next, t.size, name)
	}
	return t.digest, nil
}

// Digests returns the digest of every tensor announced. It fails if some byte was not written.
func (r *Recorder) Digests() (map[string]Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]Digest, len(r.tensors))
	for name, t := range r.tensors {
		d, err := t.whole(name)
		if err != nil {
			return nil, err
		}
		out[name] = d
	}
	return out, nil
}
