package decode

import "sync"

// MXFP4 weights lie transposed: the elements of one logical row come from as many places as the weight has columns, so
// a rectangle of the stored bytes, a panel, is held while the rows that cross it are read.
const (
	panelBytes = 10 << 20 // an expert of gpt-oss, the largest published use, is 8.8 MB
	cacheBytes = 32 << 20
)

type panelKey struct {
	tensor       *mxfp4Reader
	expert       int64
	rowTile, col int64
}

type panel struct {
	key     panelKey
	blocks  []byte
	scales  []byte
	readers int
	used    int64 // the tick of the last use
	valid   bool  // false while it is being filled, or after that went wrong
}

// panels is a cache of a fixed number of panels, shared by all readers of a Scheme. A call holds at most one panel at a
// time, so that waiting for one to come free always ends.
type panels struct {
	mu    sync.Mutex
	freed sync.Cond
	slots []*panel
	most  int
	tick  int64
}

func newPanels() *panels {
	c := &panels{most: cacheBytes / panelBytes}
	c.freed.L = &c.mu
	return c
}

// acquire returns the panel of a key, filled by fill if it is not held. It must be released.
func (c *panels) acquire(key panelKey, fill func(*panel) error) (*panel, error) {
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
	err := fill(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.valid = err == nil
	c.freed.Broadcast()
	if err != nil {
		p.readers, p.key = 0, panelKey{}
		return nil, err
	}
	return p, nil
}

// take returns the panel of a key, or the least recently used of those that are free, waiting until there is one.
func (c *panels) take(key panelKey) *panel {
	for {
		var oldest *panel
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
			p := &panel{key: key}
			c.slots = append(c.slots, p)
			return p
		case oldest != nil:
			oldest.key, oldest.valid = key, false
			return oldest
		}
		c.freed.Wait()
	}
}

func (c *panels) release(p *panel) {
	c.mu.Lock()
	p.readers--
	c.mu.Unlock()
	c.freed.Broadcast()
}
