package lora

import (
	"sync"

	"github.com/nf4kit/nf4kit/internal/linalg"
)

// factors are those of one module, as float32.
type factors struct {
	a, b  []float32
	once  sync.Once
	err   error
	used  int64
	size  int64
	mu    sync.Mutex
	sides map[side]*sides
}

// side is an expert of a module, 0 where that is no stack, and whether its product is turned, or its rows woven.
type side struct {
	expert        int64
	turned, woven bool
}

// sides are the factors as a product takes them.
type sides struct {
	left  linalg.Matrix
	right *linalg.Packed
}

// of are the two sides of the product that a part of a tensor gets.
func (f *factors) of(u *update, p *part) (left linalg.Matrix, right *linalg.Packed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := side{p.expert, p.turned, p.woven}
	s := f.sides[key]
	if s == nil {
		s = f.take(u, p)
		if f.sides == nil {
			f.sides = map[side]*sides{}
		}
		f.sides[key] = s
	}
	if p.turned {
		return s.left, s.right
	}
	return s.left.Slice(int(p.row0), int(p.row0+p.rows), 0, s.left.Cols), s.right
}

// take makes the sides of a part from the factors.
func (f *factors) take(u *update, p *part) *sides {
	r, all := int(u.rank), int(u.module.Rank())
	in, out := len(f.a)/all, len(f.b)/all
	a, b := linalg.New(f.a, all, in), linalg.New(f.b, out, all)
	if p.experts > 1 {
		a = a.Slice(int(p.expert)*r, int(p.expert+1)*r, 0, in)
		own := make([]float32, out*r) // column k of expert e is k*experts + e
		for i := range out {
			for k := range r {
				own[i*r+k] = f.b[i*all+k*int(p.experts)+int(p.expert)]
			}
		}
		b = linalg.New(own, out, r)
	}
	if p.woven {
		rows := make([]float32, 0, out*r)
		for i := range out {
			rows = append(rows, b.Row(i%2*(out/2)+i/2)...)
		}
		b = linalg.New(rows, out, r)
	}
	if p.turned {
		return &sides{a.T(), linalg.Pack(b.T())}
	}
	return &sides{b, linalg.Pack(a)}
}

// cacheBytes bounds the factors that are held beyond those in use.
const cacheBytes = 32 << 20

// cache holds the factors of the modules that were used last.
type cache struct {
	mu    sync.Mutex
	held  map[*Module]*factors
	bytes int64
	tick  int64
}

func (c *cache) get(m *Module) (*factors, error) {
	f := c.entry(m)
	f.once.Do(func() {
		if f.a, f.err = readFloats(m.A); f.err == nil {
			f.b, f.err = readFloats(m.B)
		}
	})
	return f, f.err
}

func (c *cache) entry(m *Module) *factors {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick++
	f := c.held[m]
	if f == nil {
		f = &factors{size: 2 * 4 * (m.A.Elems() + m.B.Elems())} // as they are read, and as products take them
		for c.bytes > 0 && c.bytes+f.size > cacheBytes {
			c.drop()
		}
		c.held[m] = f
		c.bytes += f.size
	}
	f.used = c.tick
	return f
}

// drop lets go of the factors that were not used for longest.
func (c *cache) drop() {
	var oldest *Module
	for m, f := range c.held {
		if oldest == nil || f.used < c.held[oldest].used {
			oldest = m
		}
	}
	c.bytes -= c.held[oldest].size
	delete(c.held, oldest)
}
