package remote

import (
	"context"
	"sync"
)

const (
	// connections is how many requests are under way at once.
	connections = 8

	// Files are read by blocks, each a request; records that lie far apart by pages.
	blockSize = 4 << 20
	pageSize  = 4 << 10
	pageSlots = 8192

	// A read of at most largestApart that follows no other lies apart, as samples and records do, unless there are several in
	// neighbouring blocks: manySmall of less than a page, else two.
	largestApart = 2 << 20
	manySmall    = 4

	// mostAhead is how many blocks ahead of a reader that goes forward are asked for.
	mostAhead = connections
	// near is how many blocks readers of neighbouring tensors may be apart.
	near = 16
)

// A pool holds the blocks of the files of one source between the server and its readers: those that were asked for ahead, and
// those that somebody has read a part of. It never holds more than its slots.
type pool struct {
	ctx    context.Context
	cancel context.CancelFunc
	conns  chan struct{}
	open   sync.WaitGroup // fetches under way

	mu     sync.Mutex
	blocks cache
	pages  cache
}

// blockSlots is the number of blocks that a source may hold: 64 MiB, in memory of its own.
const blockSlots = 2 * connections

// Memory is what a source holds at most, in bytes, beside what its readers do.
const Memory = blockSlots*blockSize + pageSlots*pageSize

func newPool(ctx context.Context, conns int) *pool {
	p := &pool{conns: make(chan struct{}, conns)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.blocks = cache{unit: blockSize, slots: blockSlots}
	p.pages = cache{unit: pageSize, slots: pageSlots}
	for _, c := range []*cache{&p.blocks, &p.pages} {
		c.held = make(map[blockKey]*block)
		c.freed.L = &p.mu
	}
	return p
}

// close ends what is under way.
func (p *pool) close() {
	p.mu.Lock()
	p.cancel() // nothing starts from here on
	p.mu.Unlock()
	p.open.Wait()
}

type blockKey struct {
	f *file
	i int64
}

type block struct {
	key     blockKey
	data    []byte
	ready   bool
	err     error
	done    chan struct{}
	readers int
	left    int64 // bytes that nobody has read yet
	read    bool  // by somebody, in part
	used    int64 // the tick of the last read, or of its beginning
}

// A cache is the blocks of one size. The pool's mu is held in all its methods.
type cache struct {
	unit  int64
	slots int
	held  map[blockKey]*block
	free  [][]byte
	tick  int64
	freed sync.Cond
}

// room makes place for one more block: a free slot, or that of the block read longest ago. What was asked for ahead and not
// read yet goes last, and ahead of time nothing goes but what is long past.
func (c *cache) room(ahead bool) bool {
	if len(c.held) < c.slots {
		return true
	}
	var oldest *block
	for _, b := range c.held {
		if !b.ready || b.readers > 0 || ahead && c.tick-b.used < int64(4*c.slots) {
			continue
		}
		if oldest == nil || b.read && !oldest.read || b.read == oldest.read && b.used < oldest.used {
			oldest = b
		}
	}
	if oldest == nil {
		return false
	}
	c.remove(oldest)
	return true
}

// remove takes out a block that nobody reads.
func (c *cache) remove(b *block) {
	if c.held[b.key] != b {
		return
	}
	delete(c.held, b.key)
	c.free = append(c.free, b.data[:cap(b.data)])
	c.freed.Broadcast()
}

// start asks for block i of f, for which there is room.
func (p *pool) start(c *cache, f *file, i int64) *block {
	n := min(c.unit, f.size-i*c.unit)
	var data []byte
	if k := len(c.free); k > 0 {
		data, c.free = c.free[k-1], c.free[:k-1]
	} else {
		data = make([]byte, c.unit)
	}
	apart := max(0, min(i*c.unit+n, max(int64(len(f.first)), f.header))-i*c.unit) // which is not read from blocks
	b := &block{key: blockKey{f, i}, data: data[:n], left: n - apart, used: c.tick, done: make(chan struct{})}
	c.held[b.key] = b
	p.open.Go(func() {
		err := p.fetch(f, b.data, i*c.unit)
		p.mu.Lock()
		defer p.mu.Unlock()
		b.ready, b.err = true, err
		if err != nil && b.readers == 0 {
			c.remove(b) // the next reader asks again
		}
		close(b.done)
		c.freed.Broadcast()
	})
	return b
}

// fetch asks the server, when it is its turn.
func (p *pool) fetch(f *file, data []byte, off int64) error {
	select {
	case p.conns <- struct{}{}:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	defer func() { <-p.conns }()
	return f.from.fetch(p.ctx, data, off)
}

// read copies into dst bytes of block i from off within it on, waiting for them.
func (p *pool) read(c *cache, f *file, i, off int64, dst []byte) (int, error) {
	b, err := p.acquire(c, f, i)
	if err != nil {
		return 0, err
	}
	<-b.done // the pool's end ends every fetch
	n := 0
	if b.err == nil {
		n = copy(dst, b.data[off:])
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.tick++
	b.readers--
	b.used, b.read = c.tick, true
	b.left -= int64(n)
	switch {
	case b.readers > 0:
	case b.left <= 0 || b.err != nil:
		c.remove(b)
	default:
		c.freed.Broadcast()
	}
	return n, b.err
}

// acquire returns block i of f with one more reader, asking for it if it is not there.
func (p *pool) acquire(c *cache, f *file, i int64) (*block, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := p.ctx.Err(); err != nil {
			return nil, err
		}
		b := c.held[blockKey{f, i}]
		if b == nil && c.room(false) {
			b = p.start(c, f, i)
		}
		if b != nil {
			b.readers++
			return b, nil
		}
		c.freed.Wait() // a fetch ends, by the end of the pool if by nothing else
	}
}

// ahead asks for a block or page that will be read, if there is room for it.
func (p *pool) ahead(c *cache, f *file, i int64) bool {
	if i*c.unit >= f.size || c.held[blockKey{f, i}] != nil {
		return true
	}
	if p.ctx.Err() != nil {
		return false
	}
	// Readers without a block of their own must find room.
	if len(c.held) >= c.slots-2 && !(len(c.held) == c.slots && c.room(true)) {
		return false
	}
	p.start(c, f, i)
	return true
}
