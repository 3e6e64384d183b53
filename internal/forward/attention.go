package forward

import (
	"math"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// scoreElems bounds the scores that a worker holds, but for one row of them.
const scoreElems = 1 << 19

// heads are matrices [tokens, dim] beside each other in a wider one.
type heads struct {
	m           linalg.Matrix
	first, step int
	n, dim      int
}

func (h heads) head(i int) linalg.Matrix {
	at := h.first + i*h.step
	return h.m.Slice(0, h.m.Rows, at, at+h.dim)
}

// attention writes to out what attention makes of x, its output projection included.
func (p *pass) attention(out, x linalg.Matrix) error {
	l, a := p.l, &p.l.attn
	q, k, v, err := p.project(x)
	if err != nil {
		return err
	}
	if err := p.normHeads(l.qNorm, q); err != nil {
		return err
	}
	if err := p.normHeads(l.kNorm, k); err != nil {
		return err
	}
	if a.clip > 0 {
		for _, h := range []heads{q, k, v} {
			p.eachRow(h.m, func(row []float32) { clamp(row, float32(a.clip)) })
		}
	}
	if a.rope != nil {
		p.rotate(q)
		p.rotate(k)
	}
	var sinks []float32
	if l.sinks != nil {
		if sinks, err = p.d.vector(l.sinks, 0, a.heads); err != nil {
			return err
		}
	}
	y := p.matrix(bufHeads, p.rows, a.heads*a.dim)
	p.attend(heads{y, 0, a.dim, a.heads, a.dim}, q, k, v, sinks)
	return p.linear(l.o, out, y)
}

// project computes queries, keys and values.
func (p *pass) project(x linalg.Matrix) (q, k, v heads, err error) {
	l, a := p.l, &p.l.attn
	d, kd := a.heads*a.dim, a.kvHeads*a.dim
	q, k, v = heads{n: a.heads, dim: a.dim, step: a.dim}, heads{n: a.kvHeads, dim: a.dim, step: a.dim}, heads{n: a.kvHeads, dim: a.dim, step: a.dim}
	if l.qkv != nil {
		m := p.matrix(bufQ, p.rows, d+2*kd)
		q.m, k.m, v.m = m, m, m
		k.first, v.first = d, d+kd
		if a.byHead {
			k.first, v.first = a.dim, 2*a.dim
			q.step, k.step, v.step = 3*a.dim, 3*a.dim, 3*a.dim
		}
		return q, k, v, p.linear(l.qkv, m, x)
	}
	q.m, k.m, v.m = p.matrix(bufQ, p.rows, d), p.matrix(bufK, p.rows, kd), p.matrix(bufV, p.rows, kd)
	for _, w := range []struct {
		product *product
		out     linalg.Matrix
	}{{l.q, q.m}, {l.k, k.m}, {l.v, v.m}} {
		if err = p.linear(w.product, w.out, x); err != nil {
			break
		}
	}
	return q, k, v, err
}

func (p *pass) normHeads(n *boundNorm, h heads) error {
	if n == nil {
		return nil
	}
	if h.m.Cols == h.n*h.dim {
		return p.d.normalize(n, h.m, h.m)
	}
	for i := range h.n {
		m := h.head(i)
		if err := p.d.normalize(n, m, m); err != nil {
			return err
		}
	}
	return nil
}

func clamp(v []float32, limit float32) {
	for i, x := range v {
		v[i] = min(max(x, -limit), limit)
	}
}

// ropeKey names a table of cosines and sines: of a sequence's length where the frequencies depend on it, else of any up to n.
type ropeKey struct {
	rope *rope
	n    int
}

type ropeTable struct{ cos, sin []float32 }

// ropeTable is that of sequences of n tokens, of no more than longest.
func (p *pass) ropeTable(n, longest int) ropeTable {
	r := p.l.attn.rope
	if r.long == nil && r.dynamic == nil {
		n = longest
	}
	key := ropeKey{r, n}
	t, ok := p.d.ropes[key]
	if !ok {
		t.cos, t.sin = r.table(n)
		if p.d.ropes == nil || len(p.d.ropes) > 8 { // one for each kind of layer and a few lengths are held
			p.d.ropes = map[ropeKey]ropeTable{}
		}
		p.d.ropes[key] = t
	}
	return t
}

// rotate applies rotary embeddings.
func (p *pass) rotate(h heads) {
	a := &p.l.attn
	pairs := a.rotated / 2
	longest := 0
	for i := range len(p.starts) - 1 {
		longest = max(longest, p.starts[i+1]-p.starts[i])
	}
	for i := range len(p.starts) - 1 {
		first, n := p.starts[i], p.starts[i+1]-p.starts[i]
		table := p.ropeTable(n, longest)
		stream.Parts(n, p.d.opt.Jobs, func(t, end int) {
			for ; t < end; t++ {
				row := h.m.Row(first + t)
				cos, sin := table.cos[t*pairs:][:pairs], table.sin[t*pairs:][:pairs]
				for j := range h.n {
					rotateHead(row[h.first+j*h.step:][:a.rotated], cos, sin, a.interleaved)
				}
			}
		})
	}
}

func rotateHead(v, cos, sin []float32, interleaved bool) {
	for i, c := range cos {
		a, b := i, i+len(cos)
		if interleaved {
			a, b = 2*i, 2*i+1
		}
		x, y := v[a], v[b]
		v[a] = float32(x*c) - float32(y*sin[i])
		v[b] = float32(y*c) + float32(x*sin[i])
	}
}

// attend computes softmax(q k' scale) v with the causal mask, for each sequence by itself, in blocks of queries that share
// the workers.
func (p *pass) attend(out, q, k, v heads, sinks []float32) {
	a := &p.l.attn
	type task struct{ first, n, from, to, head int }
	var tasks []task
	for i := range len(p.starts) - 1 {
		first, n := p.starts[i], p.starts[i+1]-p.starts[i]
		rows := min(max(scoreElems/max(n, 1)/6*6, 6), 192)
		for head := range a.heads {
			for from := 0; from < n; from += rows {
				tasks = append(tasks, task{first, n, from, min(from+rows, n), head})
			}
		}
	}
	var next atomic.Int64
	stream.Parts(p.d.opt.Jobs, p.d.opt.Jobs, func(int, int) {
		var scores []float32
		for {
			i := int(next.Add(1)) - 1
			if i >= len(tasks) || p.ctx.Err() != nil {
				return
			}
			t := tasks[i]
			low := 0
			if a.window > 0 {
				low = max(0, t.from-a.window+1)
			}
			rows, keys := t.to-t.from, t.to-low
			if cap(scores) < rows*keys {
				scores = make([]float32, rows*keys)
			}
			s := linalg.New(scores[:rows*keys], rows, keys)
			clear(scores[:rows*keys])
			kv := t.head / (a.heads / a.kvHeads)
			part := func(h heads, i, from, to int) linalg.Matrix {
				return h.head(i).Slice(t.first+from, t.first+to, 0, h.dim)
			}
			linalg.MulAdd(s, part(q, t.head, t.from, t.to), part(k, kv, low, t.to).T(), 1)
			for r := range rows {
				at, sink := t.from+r, math.Inf(-1)
				if sinks != nil {
					sink = float64(sinks[t.head])
				}
				begin := 0
				if a.window > 0 {
					begin = max(0, at-a.window+1-low)
				}
				row := s.Row(r)
				clear(row[:begin])
				clear(row[at-low+1:])
				a.softmax(row[begin:at-low+1], sink)
			}
			y := part(out, t.head, t.from, t.to)
			for r := range rows {
				clear(y.Row(r))
			}
			linalg.MulAdd(y, s, part(v, kv, low, t.to), 1)
		}
	})
}

// softmax replaces scores by their shares, beside those of a sink.
func (a *attention) softmax(row []float32, sink float64) {
	scale := float32(a.scale)
	top := float32(math.Inf(-1))
	for i, s := range row {
		s *= scale
		if a.softcap != 0 {
			s = float32(softcap(float64(s), a.softcap))
		}
		row[i] = s
		top = max(top, s)
	}
	high := max(float64(top), sink)
	sum := exp(sink - high)
	for i, s := range row {
		e := exp(float64(s) - high)
		row[i] = float32(e)
		sum += e
	}
	inv := 1 / sum
	for i, e := range row {
		row[i] = float32(float64(e) * inv)
	}
}
