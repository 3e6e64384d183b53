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

// chunk is how many elements are worked on at a time at most, and panel how many of whole rows: so many that the base, the update
// and their sum stay in a processor's second-level cache while they are used.
const (
	chunk = 1 << 17
	panel = 1 << 15
)

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

	dora dora

	mu      sync.Mutex
	sums    map[int64]sums // by the first element of a chunk, of what was read
	noted   *sums          // of a tensor that an earlier run has written; nil where this one does
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
	raw    []byte
	base   []float32 // the weight before anything is added
	w      []float32 // what has become of it
	delta  []float32
	total  []float32 // of all deltas
	before []float32 // what DoRA scales
	merged []byte    // the result, where nobody wants it
}

var works = sync.Pool{New: func() any {
	return &work{raw: make([]byte, 8*chunk), base: make([]float32, chunk), w: make([]float32, chunk), delta: make([]float32, chunk), merged: make([]byte, 4*chunk)}
}}

// A change is what is to be added to a chunk: by times delta, each product rounded.
type change struct {
	delta []float32
	by    float32
}

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
		first := (off + int64(done)) / size
		n := v.step(first, int64(len(p)-done)/size)
		b := p[done:][:n*int(size)]
		added, err := v.merge(x, b, first, n)
		if err != nil {
			return done, err
		}
		var s sums
		if added.delta != nil {
			kernel.Widen(x.w[:n], b, v.out)
			s = sumsOf(x.base[:n], added, x.w[:n])
			v.note(v.sums, first, s)
		}
		if added.delta == nil || math.IsInf(s.ee, 0) || math.IsNaN(s.ee) { // else all are finite
			if err := v.checkFinite(x, b, first, n); err != nil {
				return done, err
			}
		}
		done += len(b)
	}
	return len(p), nil
}

// checkFinite finds what is not finite among merged elements, and what it was before it was rounded.
func (v *merged) checkFinite(x *work, p []byte, first int64, n int) error {
	at := kernel.FirstNonFinite(v.out, p, n)
	if at < 0 {
		return nil
	}
	if _, err := v.merge(x, p, first, n); err != nil {
		return err
	}
	return &weights.ValueError{Tensor: v.t.Name, File: v.t.File, Index: first + int64(at), Shape: v.t.Shape, Value: float64(x.w[at]), DType: v.dtype}
}

// step is how many of n elements from first on are worked on at a time: whole rows, and whole tiles of them, where that can be.
func (v *merged) step(first, n int64) int {
	cols := v.end
	if u := v.edit.updates; len(u) > 0 {
		cols = u[0].parts[0].cols
	}
	if at := first % cols; at > 0 || n < cols {
		return int(min(n, cols-at, chunk))
	}
	rows := max(kernel.TileRows, panel/cols/kernel.TileRows*kernel.TileRows)
	return int(min(min(rows, n/cols)*cols, chunk))
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

// merge fills p with n elements from first on. Unless there are to be no figures, it returns what was to be added to x.base, the
// base's elements.
func (v *merged) merge(x *work, p []byte, first int64, n int) (added change, err error) {
	if err := v.norms(); err != nil {
		return change{}, err
	}
	base, w := x.base[:n], x.w[:n]
	if err := v.load(x, base, first); err != nil {
		return change{}, err
	}
	measured := !v.opt.NoFigures && v.updated()
	joint := len(v.edit.updates) != 1 || len(v.edit.tokens) > 0 || v.edit.updates[0].module.Magnitude != nil
	var total []float32
	if measured && joint {
		x.total = slices.Grow(x.total[:0], n)[:n]
		total = x.total
		clear(total)
	}
	from := base
	for i := range v.edit.updates {
		if added, err = v.add(x, i, w, from, total, first); err != nil {
			return change{}, err
		}
		from = w
	}
	if len(v.edit.updates) == 0 {
		copy(w, base)
	}
	for i := range v.edit.biases {
		if err := v.addBias(x, &v.edit.biases[i], w, first); err != nil {
			return change{}, err
		}
	}
	for i := range v.edit.tokens {
		if err := v.setRows(x, &v.edit.tokens[i], w, total, first); err != nil {
			return change{}, err
		}
	}
	kernel.Narrow(p, v.out, w)
	switch {
	case !measured:
		return change{}, nil
	case joint:
		return change{total, 1}, nil
	}
	return added, nil
}

// add leaves in w what update i makes of from, which may be w, and adds it to total if there is one. What it returns is of no DoRA.
func (v *merged) add(x *work, i int, w, from, total []float32, first int64) (change, error) {
	u := &v.edit.updates[i]
	if u.module.Magnitude != nil {
		return change{}, v.addDora(x, i, w, from, total, first)
	}
	added, err := v.delta(x, u, len(w), first, v.opt.Safe)
	if err != nil {
		return change{}, err
	}
	kernel.AddScaledTo(w, from, added.by, added.delta)
	if total != nil {
		kernel.AddScaled(total, added.by, added.delta)
	}
	if i < len(v.edit.updates)-1 { // what is last is rounded as it is written
		v.settle(x, w)
	}
	return added, nil
}

// delta is what an update adds to n elements, rounded to the dtype of the weight where that is asked or PEFT does so anyway.
func (v *merged) delta(x *work, u *update, n int, first int64, rounded bool) (change, error) {
	d := x.delta[:n]
	clear(d)
	if err := v.product(u, d, first); err != nil {
		return change{}, err
	}
	if (u.rounds || rounded) && !v.wide() {
		scale(d, u.scale)
		v.round(x, d)
		return change{d, 1}, nil
	}
	return change{d, u.scale}, nil
}

// wide reports whether nothing is to be rounded.
func (v *merged) wide() bool { return v.out != v.held }

// settle rounds what an update has made where another follows.
func (v *merged) settle(x *work, w []float32) {
	if !v.wide() && !v.opt.Joint {
		v.round(x, w)
	}
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

// setRows puts trained rows in the place of the base's, and adds the difference to total if there is one.
func (v *merged) setRows(x *work, u *update, w, total []float32, first int64) error {
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
			if total != nil {
				total[lo-first+int64(i)] += f[i] - part[i]
			}
			part[i] = f[i]
		}
	}
	return nil
}
