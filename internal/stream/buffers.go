package stream

import "sync"

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
