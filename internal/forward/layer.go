package forward

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// A pass computes one layer for groups of whole sequences.
type pass struct {
	d    *Decoder
	l    *layer
	ctx  context.Context
	hook Hook

	rows   int   // tokens of the group
	starts []int // row of each sequence of the group, and of the end
	bufs   [numBuffers][]float32
}

// The matrices that a pass holds of a group.
const (
	bufX = iota
	bufNormed
	bufQ
	bufK
	bufV
	bufHeads
	bufAttn
	bufGate
	bufUp
	bufMLP
	bufExpertIn
	bufExpertOut
	numBuffers
)

func (p *pass) matrix(buf, rows, cols int) linalg.Matrix {
	if cap(p.bufs[buf]) < rows*cols {
		p.bufs[buf] = make([]float32, rows*cols)
	}
	return linalg.New(p.bufs[buf][:rows*cols], rows, cols)
}

// Layer replaces hidden states by those after the layer. hook may be nil.
func (d *Decoder) Layer(ctx context.Context, layer int, s *States, hook Hook) error {
	return d.run(ctx, layer, s, hook, true)
}

// Measure calls hook as Layer does and leaves the hidden states as they are.
func (d *Decoder) Measure(ctx context.Context, layer int, s *States, hook Hook) error {
	return d.run(ctx, layer, s, hook, false)
}

func (d *Decoder) run(ctx context.Context, layer int, s *States, hook Hook, write bool) error {
	p := &pass{d: d, l: d.layers[layer], ctx: ctx, hook: hook}
	limit := max(1, int(d.opt.memory()/2/(4*int64(p.l.perToken(d.desc.width)))))
	for i := 0; i < s.Sequences(); {
		end := i + 1
		for end < s.Sequences() && s.starts[end+1]-s.starts[i] <= limit {
			end++
		}
		first := s.starts[i]
		p.starts = p.starts[:0]
		for _, at := range s.starts[i : end+1] {
			p.starts = append(p.starts, at-first)
		}
		p.rows = s.starts[end] - first
		x := p.matrix(bufX, p.rows, d.desc.width)
		if err := s.Read(p.bufs[bufX][:p.rows*d.desc.width], first); err != nil {
			return err
		}
		if err := p.block(x); err != nil {
			return fmt.Errorf("layer %d: %w", layer, err)
		}
		if write {
			if err := s.write(p.bufs[bufX][:p.rows*d.desc.width], first); err != nil {
				return err
			}
		}
		i = end
	}
	return nil
}

// perToken is how many elements a pass holds for each token.
func (l *layer) perToken(width int) int {
	a := &l.attn
	n := 4*width + 2*(a.heads+a.kvHeads)*a.dim
	if l.mlp != nil {
		return n + 2*l.mlp.width
	}
	n += 2*width + 2*l.block.experts.each.width + l.block.experts.n
	if s := l.block.experts.shared; s != nil {
		n += 2 * s.width
	}
	return n
}

// block computes the layer in x.
func (p *pass) block(x linalg.Matrix) error {
	l, width := p.l, x.Cols
	h, err := p.normed(l.attnIn, bufNormed, x)
	if err != nil {
		return err
	}
	a := p.matrix(bufAttn, p.rows, width)
	if err := p.attention(a, h); err != nil {
		return err
	}
	f := p.matrix(bufMLP, p.rows, width)
	if l.parallel {
		if l.mlpIn != nil {
			if h, err = p.normed(l.mlpIn, bufNormed, x); err != nil {
				return err
			}
		}
		if err := p.feed(f, h); err != nil {
			return err
		}
		if err := p.join(x, a, l.attnOut); err != nil {
			return err
		}
		return p.join(x, f, l.mlpOut)
	}
	if err := p.join(x, a, l.attnOut); err != nil {
		return err
	}
	if h, err = p.normed(l.mlpIn, bufNormed, x); err != nil {
		return err
	}
	if err := p.feed(f, h); err != nil {
		return err
	}
	return p.join(x, f, l.mlpOut)
}

// normed is x through a norm, x itself without one.
func (p *pass) normed(n *boundNorm, buf int, x linalg.Matrix) (linalg.Matrix, error) {
	if n == nil {
		return x, nil
	}
	h := p.matrix(buf, x.Rows, x.Cols)
	return h, p.d.normalize(n, h, x)
}

// join adds y to x, normed before or after.
func (p *pass) join(x, y linalg.Matrix, n *boundNorm) error {
	if n != nil && !p.l.after {
		if err := p.d.normalize(n, y, y); err != nil {
			return err
		}
	}
	scale := float32(p.l.residual)
	stream.Parts(x.Rows, p.d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			to, from := x.Row(i), y.Row(i)
			for j, v := range from {
				to[j] += float32(v * scale)
			}
		}
	})
	if n != nil && p.l.after {
		return p.d.normalize(n, x, x)
	}
	return nil
}

// linear computes a Linear and shows it to the hook.
func (p *pass) linear(w *product, out, in linalg.Matrix) error {
	if err := p.d.multiply(p.ctx, w, out, in); err != nil {
		return err
	}
	if p.hook == nil {
		return nil
	}
	return p.hook(w.Linear, in, out)
}

// feed is the MLP, or the experts.
func (p *pass) feed(out, x linalg.Matrix) error {
	if p.l.experts != nil {
		return p.route(out, x)
	}
	return p.mlp(p.l.mlp, out, x)
}

// mlp computes one, also an expert's with its tokens.
func (p *pass) mlp(m *boundMLP, out, x linalg.Matrix) error {
	act := activations[m.act]
	var a linalg.Matrix
	if m.gateUp != nil {
		g := p.matrix(bufGate, x.Rows, 2*m.width)
		if err := p.linear(m.gateUp, g, x); err != nil {
			return err
		}
		a = g.Slice(0, x.Rows, 0, m.width)
		p.eachRow(g, func(row []float32) { p.gate(m, act, row[:m.width], row) })
		return p.linear(m.down, out, a)
	}
	a = p.matrix(bufUp, x.Rows, m.width)
	if err := p.linear(m.up, a, x); err != nil {
		return err
	}
	if m.gate == nil {
		p.eachRow(a, func(row []float32) {
			for j, v := range row {
				row[j] = float32(act(float64(v)))
			}
		})
		return p.linear(m.down, out, a)
	}
	g := p.matrix(bufGate, x.Rows, m.width)
	if err := p.linear(m.gate, g, x); err != nil {
		return err
	}
	stream.Parts(x.Rows, p.d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			up, gate := a.Row(i), g.Row(i)
			for j, v := range gate {
				up[j] *= float32(act(float64(v)))
			}
		}
	})
	return p.linear(m.down, out, a)
}

func (p *pass) eachRow(m linalg.Matrix, f func(row []float32)) {
	stream.Parts(m.Rows, p.d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			f(m.Row(i))
		}
	})
}

// gate writes to dst, which may be the beginning of row, what a row of gate and up gives.
func (p *pass) gate(m *boundMLP, act func(float64) float64, dst, row []float32) {
	e := p.l.block.experts
	if e == nil || !e.clamped {
		gate, up := row[:m.width], row[m.width:]
		for j, v := range gate {
			dst[j] = float32(act(float64(v))) * up[j]
		}
		return
	}
	for j := range dst {
		gate, up := min(float64(row[2*j]), e.limit), min(max(float64(row[2*j+1]), -e.limit), e.limit)
		dst[j] = float32((up + 1) * float64(gate*sigmoid(float64(gate*e.alpha))))
	}
}

// normalize writes to y the rows of x, normed: of all elements, or where x is heads beside each other of each head. y may be
// x.
func (d *Decoder) normalize(n *boundNorm, y, x linalg.Matrix) error {
	w, b, err := d.normWeights(n)
	if err != nil {
		return err
	}
	stream.Parts(x.Rows, d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			from, to := x.Row(i), y.Row(i)
			for at := 0; at < len(from); at += n.width {
				ww, bb := w, b
				if len(w) > n.width {
					ww = w[at:]
				}
				if len(b) > n.width {
					bb = b[at:]
				}
				normRow(n, to[at:at+n.width], from[at:at+n.width], ww, bb)
			}
		}
	})
	return nil
}

// normWeights reads a norm's parameters, those of all heads one after another.
func (d *Decoder) normWeights(n *boundNorm) (w, b []float32, err error) {
	read := func(tensors []*weights.Tensor) (all []float32, err error) {
		for _, t := range tensors {
			v, err := d.vector(t, 0, int(t.Elems()))
			if err != nil {
				return nil, err
			}
			all = append(all, v...)
		}
		return all, nil
	}
	if w, err = read(n.weight); err != nil {
		return nil, nil, err
	}
	if n.kind == rmsPlusOne || n.kind == centredPlusOne {
		for i := range w {
			w[i]++
		}
	}
	b, err = read(n.bias)
	return w, b, err
}

// normRow norms one row. Sums are float64.
func normRow(n *boundNorm, y, x, w, b []float32) {
	var mean, sum float64
	if n.kind != rms && n.kind != rmsPlusOne {
		for _, v := range x {
			mean += float64(v)
		}
		mean /= float64(len(x))
	}
	for _, v := range x {
		c := float64(v) - mean
		sum += float64(c * c)
	}
	inv := 1 / math.Sqrt(sum/float64(len(x))+n.eps)
	for j, v := range x {
		u := float32((float64(v) - mean) * inv)
		if w != nil {
			u *= w[j]
		}
		if b != nil {
			u += b[j]
		}
		y[j] = u
	}
}

// start fills hidden states with embeddings, chunk after chunk.
func (d *Decoder) start(ctx context.Context, s *States) error {
	m := d.desc
	const chunk = 1024
	ids := slices.Concat(s.ids...)
	position := make([]int, 0, len(ids))
	for _, seq := range s.ids {
		for t := range seq {
			position = append(position, t)
		}
	}
	for at := 0; at < len(ids); at += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, len(ids)-at)
		e := make([]float32, n*m.embedWidth)
		for i, id := range ids[at : at+n] {
			row := e[i*m.embedWidth:][:m.embedWidth]
			if err := d.floats(row, d.embed, int64(id)*int64(m.embedWidth)); err != nil {
				return err
			}
			if m.embedScale != 1 {
				for j := range row {
					row[j] *= float32(m.embedScale)
				}
			}
		}
		x := linalg.New(e, n, m.embedWidth)
		if d.in != nil {
			e = make([]float32, n*m.width)
			y := linalg.New(e, n, m.width)
			if err := d.multiply(ctx, d.in, y, x); err != nil {
				return err
			}
			x = y
		}
		if d.positions != nil {
			row := make([]float32, m.width)
			for i, t := range position[at : at+n] {
				if err := d.floats(row, d.positions, int64(t+m.skip)*int64(m.width)); err != nil {
					return err
				}
				for j, v := range row {
					x.Row(i)[j] += v
				}
			}
		}
		if d.embedNorm != nil {
			if err := d.normalize(d.embedNorm, x, x); err != nil {
				return err
			}
		}
		if err := s.write(e, at); err != nil {
			return err
		}
	}
	return nil
}
