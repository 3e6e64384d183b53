package lora

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// chunk is how many elements are worked on at a time.
const chunk = 1 << 17

// merged are the values of a tensor with adapters added. They are computed as they are read.
type merged struct {
	*Merge
	edit  *edit
	t     weights.Tensor // as it was
	src   weights.Values
	dtype safetensors.DType // that W is held in, and W + D rounded to
	held  kernel.Elem       // the same
	out   kernel.Elem       // of what is read: held, or F32 where nothing is to be rounded
	end   int64             // elements

	mu      sync.Mutex
	sums    map[int64]sums // by the first element of a chunk, of what was read
	written map[int64]sums // of what was quantized and read back; nil where it was not
	gap     map[int64]sums // of the base and another form of it, in ee
	other   map[int64]sums // of a sample that was quantized in another way
}

func (v *merged) Prefetch(off, n int64) { v.src.Prefetch(v.hint(off), v.hint(n)) }
func (v *merged) Drop(off, n int64)     { v.src.Drop(v.hint(off), v.hint(n)) }

// hint is a place in the base for one in what is read.
func (v *merged) hint(n int64) int64 { return n / int64(v.out.Size()) * int64(v.t.DType.Bits()/8) }

// work is the room for a chunk.
type work struct {
	raw   []byte
	w     []float32 // the weight, then what has been added to it
	delta []float32
	base  []float32 // the weight before anything was added
	total []float32 // of all deltas

	merged []byte // room for the result, where nobody wants it
}

var works = sync.Pool{New: func() any {
	return &work{raw: make([]byte, 8*chunk), w: make([]float32, chunk), delta: make([]float32, chunk), merged: make([]byte, 4*chunk)}
}}

// out is room for n merged elements.
func (x *work) out(n int, e kernel.Elem) []byte { return x.merged[:n*e.Size()] }

// ReadAt yields elements of the merged tensor.
func (v *merged) ReadAt(p []byte, off int64) (int, error) {
	size := int64(v.out.Size())
	if off%size != 0 || int64(len(p))%size != 0 || off < 0 || off/size+int64(len(p))/size > v.end {
		return 0, fmt.Errorf("lora: internal error: read of %d bytes at %d of %s", len(p), off, v.t.Name)
	}
	x := works.Get().(*work)
	defer works.Put(x)
	for done := 0; done < len(p); {
		n := min(chunk, (len(p)-done)/int(size))
		b := p[done : done+n*int(size)]
		first := (off + int64(done)) / size
		total, err := v.merge(x, b, first, n)
		if err != nil {
			return done, err
		}
		if total != nil {
			kernel.Widen(x.w[:n], b, v.out)
			v.note(v.sums, first, sumsOf(x.base, total, x.w[:n]))
		}
		done += len(b)
	}
	return len(p), nil
}

// load fills dst with n elements of the tensor before any update, in the dtype that it is held in.
func (v *merged) load(x *work, dst []float32, first int64) error {
	if r := v.edit.replace; r != nil {
		f, err := readRange(r, first, int64(len(dst)))
		if err != nil {
			return err
		}
		copy(dst, f)
	} else {
		e := v.t.Elem()
		raw := x.raw[:len(dst)*e.Size()]
		if err := stream.ReadFull(v.src, raw, first*int64(e.Size())); err != nil {
			return fmt.Errorf("%s: read %s: %w", v.t.File, v.t.Name, err)
		}
		kernel.Widen(dst, raw, e)
		if e == v.held {
			return nil
		}
	}
	v.round(x, dst)
	return nil
}

// round rounds values to the dtype of the weight.
func (v *merged) round(x *work, f []float32) {
	if v.held == kernel.F32 {
		return
	}
	raw := x.raw[:len(f)*v.held.Size()]
	kernel.Narrow(raw, v.held, f)
	kernel.Widen(f, raw, v.held)
}

// note keeps the sums of a chunk.
func (v *merged) note(in map[int64]sums, first int64, s sums) {
	v.mu.Lock()
	defer v.mu.Unlock()
	in[first] = s
}

// updated reports whether there is something to measure.
func (v *merged) updated() bool { return len(v.edit.updates)+len(v.edit.tokens) > 0 }

// merge fills p with n elements from first on. Unless there are to be no figures, x.base has the base's elements then, and total
// is what was to be added to them.
func (v *merged) merge(x *work, p []byte, first int64, n int) (total []float32, err error) {
	w, d := x.w[:n], x.delta[:n]
	if err := v.load(x, w, first); err != nil {
		return nil, err
	}
	measured := !v.opt.NoFigures && v.updated()
	joint := len(v.edit.updates) != 1 || len(v.edit.tokens) > 0 || v.edit.updates[0].module.Magnitude != nil
	if measured {
		x.base = append(x.base[:0], w...)
		if joint {
			x.total = slices.Grow(x.total[:0], n)[:n]
			clear(x.total)
		}
	}
	for i := range v.edit.updates {
		if err := v.add(x, &v.edit.updates[i], w, d, first, i == len(v.edit.updates)-1, measured && joint); err != nil {
			return nil, err
		}
	}
	for i := range v.edit.biases {
		if err := v.addBias(x, &v.edit.biases[i], w, first); err != nil {
			return nil, err
		}
	}
	for i := range v.edit.tokens {
		if err := v.setRows(x, &v.edit.tokens[i], w, first, measured); err != nil {
			return nil, err
		}
	}
	kernel.Narrow(p, v.out, w)
	if at := kernel.FirstNonFinite(v.out, p, n); at >= 0 {
		return nil, &weights.ValueError{Tensor: v.t.Name, File: v.t.File, Index: first + int64(at), Shape: v.t.Shape,
			Value: float64(w[at]), DType: v.dtype}
	}
	switch {
	case !measured:
		return nil, nil
	case joint:
		return x.total, nil
	}
	return d, nil
}

// add adds one update to w; last says that nothing follows.
func (v *merged) add(x *work, u *update, w, d []float32, first int64, last, total bool) error {
	clear(d)
	if err := v.product(u, d, first); err != nil {
		return err
	}
	wide := v.out != v.held // nothing is to be rounded
	added := u.module.Magnitude == nil
	scale(d, u.scale)
	if (u.rounds || v.opt.Safe && added) && !wide {
		v.round(x, d)
	}
	if added {
		if total {
			kernel.AddScaled(x.total, 1, d)
		}
		kernel.AddScaled(w, 1, d)
	} else {
		before := slices.Clone(w)
		if err := v.magnitude(x, u, w, d, first); err != nil {
			return err
		}
		if total {
			for i := range w {
				x.total[i] += w[i] - before[i]
			}
		}
	}
	// What is written last is rounded as it is written.
	if !wide && !v.opt.Joint && !last {
		v.round(x, w)
	}
	return nil
}

func scale(d []float32, s float32) {
	for i, p := range d {
		d[i] = p * s
	}
}

// product adds B @ A of an update to d, the elements of the tensor from first on.
func (v *merged) product(u *update, d []float32, first int64) error {
	f, err := v.cache.get(u.module)
	if err != nil {
		return err
	}
	end := first + int64(len(d))
	from, _ := slices.BinarySearchFunc(u.parts, first, func(p part, first int64) int {
		if p.first+p.rows*p.cols <= first {
			return -1
		}
		return 1
	})
	for _, p := range u.parts[from:] {
		if p.first >= end {
			break
		}
		lo, hi := max(first, p.first), min(end, p.first+p.rows*p.cols)
		left, right := f.of(u, &p)
		multiply(d[lo-first:hi-first], left, right, int(lo-p.first), int(p.cols))
	}
	return nil
}

// multiply adds elements of left @ right from at on to d, which may begin and end within rows of cols.
func multiply(d []float32, left linalg.Matrix, right *linalg.Packed, at, cols int) {
	for len(d) > 0 {
		row, col := at/cols, at%cols
		rows, width := len(d)/cols, cols
		if col > 0 || rows == 0 {
			rows, width = 1, min(cols-col, len(d))
		}
		n := rows * width
		linalg.MulAddPacked(linalg.New(d[:n], rows, width), left.Slice(row, row+rows, 0, left.Cols), right, col)
		d, at = d[n:], at+n
	}
}

// magnitude makes w, to which d is to be added, what DoRA makes of it: (m/|V|) V with V = w + d (tuners/lora/variants.py).
func (v *merged) magnitude(x *work, u *update, w, d []float32, first int64) error {
	factors, err := v.norms(u)
	if err != nil {
		return err
	}
	p := &u.parts[0]
	for i := range w {
		at := first + int64(i)
		k := at / p.cols
		if p.turned {
			k = at % p.cols
		}
		w[i] = float32(factors[k] * float32(w[i]+d[i]))
	}
	return nil
}

// norms are m/|V| of every output, from one pass over the weight without other adapters.
func (v *merged) norms(u *update) ([]float32, error) {
	v.normMu.Lock()
	defer v.normMu.Unlock()
	if f, ok := v.dora[u.module]; ok {
		return f, nil
	}
	m, err := readFloats(u.module.Magnitude)
	if err != nil {
		return nil, err
	}
	p := &u.parts[0]
	sums := make([]float64, len(m))
	x := &work{raw: make([]byte, 8*chunk)}
	w, d := make([]float32, chunk), make([]float32, chunk)
	for first := int64(0); first < v.end; first += chunk {
		n := min(chunk, v.end-first)
		if err := v.load(x, w[:n], first); err != nil {
			return nil, err
		}
		clear(d)
		if err := v.product(u, d[:n], first); err != nil {
			return nil, err
		}
		for i := range w[:n] {
			at := first + int64(i)
			k := at / p.cols
			if p.turned {
				k = at % p.cols
			}
			y := float64(w[i] + float32(d[i]*u.scale))
			sums[k] += float64(y * y)
		}
	}
	for k := range m {
		n := float32(math.Sqrt(sums[k]))
		if n == 0 {
			return nil, &Error{Path: u.adapter.Path, Key: u.module.Magnitude.Name, Expect: "outputs with weights, to be scaled", Found: fmt.Sprintf("output %d of zeros", k)}
		}
		m[k] /= n
	}
	v.dora[u.module] = m
	return m, nil
}

func (v *merged) addBias(x *work, b *bias, w []float32, first int64) error {
	f, err := readRange(b.module.Bias, first, int64(len(w)))
	if err != nil {
		return err
	}
	for i := range w {
		w[i] += float32(f[i] * b.scale)
	}
	v.round(x, w)
	return nil
}

// setRows puts trained rows in the place of the base's.
func (v *merged) setRows(x *work, u *update, w []float32, first int64, measured bool) error {
	cols := u.module.Tokens.Shape[1]
	for k, id := range u.module.IDs {
		lo, hi := max(first, id*cols), min(first+int64(len(w)), (id+1)*cols)
		if lo >= hi {
			continue
		}
		f, err := readRange(u.module.Tokens, int64(k)*cols+lo-id*cols, hi-lo)
		if err != nil {
			return err
		}
		v.round(x, f)
		part := w[lo-first : hi-first]
		for i := range part {
			if measured {
				x.total[lo-first+int64(i)] += f[i] - part[i]
			}
			part[i] = f[i]
		}
	}
	return nil
}
