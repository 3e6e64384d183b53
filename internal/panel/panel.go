// Package panel holds rectangles of stored tensors while they are read across: weights that lie transposed, of whose rows the
// elements come from as many places as there are columns.
package panel

import "sync"

// Bytes is room for what one cache holds in all.
const Bytes = 32 << 20

// A Panel is a rectangle that a Cache holds.
type Panel struct {
	Data []byte

	key     any
	readers int
	used    int64 // the tick of the last use
	valid   bool  // false while it is being filled, or after that went wrong
}

// A Cache holds a fixed number of panels, the most recently used. A call holds at most one panel at a time, so that waiting
// for one to come free always ends.
type Cache struct {
	mu    sync.Mutex
	freed sync.Cond
	slots []*Panel
	most  int
	tick  int64
}

// NewCache makes a cache of panels of at most so many bytes each.
func NewCache(bytes int) *Cache {
	c := &Cache{most: Bytes / bytes}
	c.freed.L = &c.mu
	return c
}

// Acquire returns the panel of a comparable key, its size bytes filled by fill if it is not held. It must be released.
func (c *Cache) Acquire(key any, size int64, fill func(data []byte) error) (*Panel, error) {
	c.mu.Lock()
	p := c.take(key)
	p.readers++
	c.tick++
	p.used = c.tick
	if p.valid {
		c.mu.Unlock()
		return p, nil
	}
	c.mu.Unlock()
	if int64(cap(p.Data)) < size {
		p.Data = make([]byte, size)
	}
	p.Data = p.Data[:size]
	err := fill(p.Data)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.valid = err == nil
	c.freed.Broadcast()
	if err != nil {
		p.readers, p.key = 0, nil
		return nil, err
	}
	return p, nil
}

// take returns the panel of a key, or the least recently used of those that are free, waiting until there is one.
func (c *Cache) take(key any) *Panel {
	for {
		var oldest *Panel
		filling := false
		for _, p := range c.slots {
			if p.key == key {
				if p.valid {
					return p
				}
				filling = true
			}
			if p.readers == 0 && (oldest == nil || p.used < oldest.used) {
				oldest = p
			}
		}
		switch {
		case filling: // by another goroutine
		case len(c.slots) < c.most:
			p := &Panel{key: key}
			c.slots = append(c.slots, p)
			return p
		case oldest != nil:
			oldest.key, oldest.valid = key, false
			return oldest
		}
		c.freed.Wait()
	}
}

// Release gives a panel back.
func (c *Cache) Release(p *Panel) {
	c.mu.Lock()
	p.readers--
	c.mu.Unlock()
	c.freed.Broadcast()
}

// Held is the number of panels, and of those that are not released.
func (c *Cache) Held() (panels, inUse int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.slots {
		if p.readers > 0 {
			inUse++
		}
	}
	return len(c.slots), inUse
}
