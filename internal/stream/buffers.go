package stream

import (
	"slices"
	"sync"
)

// Buffers recycles buffers of one size. It may be used from several goroutines.
type Buffers struct {
	mu   sync.Mutex
	free [][]byte
}

// Get returns a buffer of n bytes, whatever is in it; n is the same in every call.
func (b *Buffers) Get(n int64) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last := len(b.free) - 1; last >= 0 {
		p := b.free[last]
		b.free = b.free[:last]
		return p
	}
	return make([]byte, n)
}

// Put takes a buffer of Get back.
func (b *Buffers) Put(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, p)
}

// Pool recycles slices of sizes that come again and again, as those of a model's tensors do. It may be used from several
// goroutines.
type Pool[T any] struct {
	mu   sync.Mutex
	free [][]T
}

const maxPooled = 16

// Get returns a slice of n elements, whatever is in them.
func (p *Pool[T]) Get(n int) []T {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.free {
		if cap(s) >= n && cap(s) <= 2*n {
			p.free = slices.Delete(p.free, i, i+1)
			return s[:n]
		}
	}
	return make([]T, n)
}

// Put takes a slice of Get back; nil is none.
func (p *Pool[T]) Put(s []T) {
	if s == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == maxPooled {
		p.free = slices.Delete(p.free, 0, 1)
	}
	p.free = append(p.free, s)
}
