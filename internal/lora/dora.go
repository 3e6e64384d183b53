package lora

import (
	"fmt"
	"math"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// dora is what DoRA needs to know of a tensor before an element can be merged.
type dora struct {
	once sync.Once
	err  error
	// factors[i][j] are m/|V| of every output, V = W + D, for update j as PEFT has them once it has merged update i; nil where
	// either is of no DoRA.
	factors [][][]float32
}

// addDora is add of a DoRA update: w = (m/|V|) (from + d), tuners/lora/variants.py.
//
// PEFT wants |V| of the weight without the adapters that it has merged before. It takes them out again, the last first, and
// merges them anew, with a rounding each: that is done here as well, so that the roundings are the same. With Joint and where
// nothing is rounded the weight is at hand as it was.
func (v *merged) addDora(x *work, i int, w, from, total []float32, first int64) error {
	if begin := v.begins(i); begin < i {
		if err := v.takeOut(x, begin, i, w, first); err != nil {
			return err
		}
		for j := begin; j < i; j++ {
			if err := v.addAgain(x, i, j, w, first); err != nil {
				return err
			}
		}
	}
	before := from
	if total != nil {
		x.before = append(x.before[:0], from...)
		before = x.before
	}
	if err := v.turn(x, i, i, w, from, first); err != nil {
		return err
	}
	if total != nil {
		for k := range w {
			total[k] += w[k] - before[k]
		}
	}
	switch {
	case v.wide() && !v.opt.Joint:
		v.round(x, w) // PEFT rounds what DoRA makes of a weight, if it quantizes that too
	case i < len(v.edit.updates)-1:
		v.settle(x, w)
	}
	return nil
}

// begins is the first of the updates that PEFT takes out before it merges update i, all of one module; i if there is none.
func (v *merged) begins(i int) int {
	if v.wide() || v.opt.Joint {
		return i
	}
	u := v.edit.updates
	begin := i
	for begin > 0 && u[begin-1].module.turn() == u[i].module.turn() {
		begin--
	}
	return begin
}

// takeOut takes the updates from begin to i out of w, as PEFT's unmerge does.
func (v *merged) takeOut(x *work, begin, i int, w []float32, first int64) error {
	for j := i - 1; j >= begin; j-- {
		u := &v.edit.updates[j]
		f := v.latest(i, j)
		added, err := v.delta(x, u, len(w), first, f == nil)
		if err != nil {
			return err
		}
		d := added.delta
		if f == nil {
			kernel.AddScaled(w, -1, d)
		} else {
			o := u.outputs(first)
			for k := range w {
				w[k] = float32(w[k]/f[o.next()]) - float32(d[k]*added.by)
			}
		}
		v.round(x, w)
	}
	return nil
}

// latest are the factors that update j was merged with before update i came.
func (v *merged) latest(i, j int) []float32 {
	for i--; i > j && v.edit.updates[i].module.Magnitude == nil; i-- {
	}
	return v.dora.factors[i][j]
}

// addAgain merges update j once more, with the factors of when update i comes.
func (v *merged) addAgain(x *work, i, j int, w []float32, first int64) error {
	if v.edit.updates[j].module.Magnitude != nil {
		if err := v.turn(x, i, j, w, w, first); err != nil {
			return err
		}
	} else {
		added, err := v.delta(x, &v.edit.updates[j], len(w), first, v.opt.Safe)
		if err != nil {
			return err
		}
		kernel.AddScaled(w, added.by, added.delta)
	}
	v.round(x, w)
	return nil
}

// turn leaves in w what update j makes of from with the factors of when update i comes. It rounds nothing.
func (v *merged) turn(x *work, i, j int, w, from []float32, first int64) error {
	u := &v.edit.updates[j]
	added, err := v.delta(x, u, len(w), first, false)
	if err != nil {
		return err
	}
	f, o := v.dora.factors[i][j], u.outputs(first)
	for k := range w {
		w[k] = float32(f[o.next()] * float32(from[k]+float32(added.delta[k]*added.by)))
	}
	return nil
}

// outputs says which output each element of a tensor belongs to, one after another.
type outputs struct {
	row, col, cols int64
	turned         bool
}

func (u *update) outputs(first int64) *outputs {
	p := &u.parts[0]
	return &outputs{first / p.cols, first % p.cols, p.cols, p.turned}
}

func (o *outputs) next() int64 {
	k := o.row
	if o.turned {
		k = o.col
	}
	if o.col++; o.col == o.cols {
		o.row, o.col = o.row+1, 0
	}
	return k
}

// norms finds the factors once, in one pass over the weight for each DoRA update.
func (v *merged) norms() error {
	v.dora.once.Do(func() {
		n := len(v.edit.updates)
		v.dora.factors = make([][][]float32, n)
		for i := range v.edit.updates {
			v.dora.factors[i] = make([][]float32, n)
		}
		for i := range v.edit.updates {
			if v.edit.updates[i].module.Magnitude != nil && v.dora.err == nil {
				v.dora.err = v.norm(i)
			}
		}
	})
	return v.dora.err
}

// norm finds the factors that update i and those before it are merged with when it comes: of the weight with these taken out.
func (v *merged) norm(i int) error {
	begin := v.begins(i)
	squares := make([][]float64, i+1)
	for j := begin; j <= i; j++ {
		if m := v.edit.updates[j].module.Magnitude; m != nil {
			f, err := readFloats(m)
			if err != nil {
				return err
			}
			v.dora.factors[i][j], squares[j] = f, make([]float64, len(f))
		}
	}
	x := works.Get().(*work)
	defer works.Put(x)
	for first := int64(0); first < v.end; {
		n := v.step(first, v.end-first)
		if err := v.square(x, begin, i, squares, first, n); err != nil {
			return err
		}
		first += int64(n)
	}
	for j := begin; j <= i; j++ {
		f := v.dora.factors[i][j]
		for k := range f {
			n := float32(math.Sqrt(squares[j][k]))
			if n == 0 {
				u := &v.edit.updates[j]
				return &Error{Path: u.adapter.Path, Key: u.module.Magnitude.Name, Expect: "outputs with weights, to be scaled", Found: fmt.Sprintf("output %d of zeros", k)}
			}
			f[k] /= n
		}
	}
	return nil
}

// square adds to the squares of the norms of update i, and of those before it that are taken out, what n elements have of them.
func (v *merged) square(x *work, begin, i int, squares [][]float64, first int64, n int) error {
	base, w := x.base[:n], x.w[:n]
	if err := v.load(x, base, first); err != nil {
		return err
	}
	copy(w, base)
	if !v.wide() && !v.opt.Joint { // what modules before have made of a weight that they share is in it
		for j := range i {
			if _, err := v.add(x, j, w, w, nil, first); err != nil {
				return err
			}
		}
		if err := v.takeOut(x, begin, i, w, first); err != nil {
			return err
		}
	}
	for j := begin; j <= i; j++ {
		if squares[j] == nil {
			continue
		}
		u := &v.edit.updates[j]
		added, err := v.delta(x, u, n, first, false)
		if err != nil {
			return err
		}
		o := u.outputs(first)
		for k := range w {
			y := float64(w[k] + float32(added.delta[k]*added.by))
			squares[j][o.next()] += float64(y * y)
		}
	}
	return nil
}
