package lora

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// FitOptions say how an adapter is fitted to the difference of two models.
type FitOptions struct {
	Rank       int64   // of every module
	Energy     float64 // above 0: each module's rank is the least that keeps this share, at most Rank
	Alpha      float64 // lora_alpha; 0: the rank, so that the scaling is 1
	Iterations int     // of the subspace iteration; 0: 6
	Jobs       int
	Seed       uint64
	Base       string // base_model_name_or_path
	// Moments are the mean squares of the inputs of a weight for each of its columns, nil where they are not known: the error of the
	// outputs is made small then (QERA, arXiv 2410.06040, its diagonal form).
	Moments func(weight string, columns int64) ([]float32, error)
	// Gram is the mean product of any two inputs, [columns, columns], nil where they are not known: the error of the outputs is the
	// least of its rank then (QERA's closed form).
	Gram  func(weight string, columns int64) ([]float32, error)
	OLoRA bool // factors are Q and R of the first columns' QR decomposition (arXiv 2406.01775), whatever the scaling
}

// A Fit is what became of one module.
type Fit struct {
	Module, Tensor string
	Rank           int64
	Energy         float64 // share of |D|² that the adapter has
	Before, After  float64 // |D|/|W| without and with it; weighted by the inputs where they are known
}

// A Left is a tensor that differs between the two models and that no low rank can take.
type Left struct {
	Tensor   string
	Relative float64 // |D|/|W|
}

// Linears lists the weights that an adapter of all linear layers has: those of Linears and Conv1Ds, but for heads and experts.
func Linears(m *weights.Model) []weights.Tensor {
	var out []weights.Tensor
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if !strings.HasSuffix(t.Name, ".weight") || len(t.Shape) != 2 || len(t.Parts) > 0 || !weights.IsFloat(t.DType) || t.Elems() == 0 {
			continue
		}
		if c := t.Class; m.Arch != nil && (!c.Module || c.Head || c.Expert || c.Router) {
			continue
		}
		if m.Arch == nil && (strings.Contains(t.Name, "embed") || strings.Contains(t.Name, "lm_head") || strings.Contains(t.Name, "norm")) {
			continue
		}
		out = append(out, m.Linear(t))
	}
	return out
}

// modulePath is the path of a weight's module in transformers 5.
func modulePath(t *weights.Tensor) string {
	if len(t.Class.Paths[arch.V5]) > 0 {
		return t.Class.Paths[arch.V5][0]
	}
	return strings.TrimSuffix(t.Name, ".weight")
}

// values reads rows of a tensor as float32.
type values struct {
	t   *weights.Tensor
	raw []byte
}

func (v *values) read(dst []float32, row int) error {
	e := v.t.Elem()
	if n := len(dst) * e.Size(); cap(v.raw) < n {
		v.raw = make([]byte, n)
	}
	raw := v.raw[:len(dst)*e.Size()]
	if err := v.t.ReadRows(raw, int64(row)); err != nil {
		return err
	}
	kernel.Widen(dst, raw, e)
	return nil
}

// difference is w less q as rows, each column times scale; q or scale may be nil. What is not finite is an error of the first pass.
func difference(w, q *weights.Tensor, scale []float32) rows {
	a, b := &values{t: w}, &values{t: q}
	var other []float32
	checked := 0 // rows
	return rows{m: int(w.Shape[0]), n: int(w.Shape[1]), fill: func(dst []float32, row int) error {
		if err := a.read(dst, row); err != nil {
			return err
		}
		if q != nil {
			if cap(other) < len(dst) {
				other = make([]float32, len(dst))
			}
			other := other[:len(dst)]
			if err := b.read(other, row); err != nil {
				return err
			}
			for i, x := range other {
				dst[i] -= x
			}
		}
		n := int(w.Shape[1])
		for at := 0; scale != nil && at < len(dst); at += n {
			line := dst[at : at+n]
			for j, s := range scale[:n] {
				line[j] *= s
			}
		}
		if row < checked {
			return nil
		}
		for i, x := range dst {
			if x-x != 0 {
				return fmt.Errorf("%s: row %d holds a NaN or an infinity", w.Name, row+i/n)
			}
		}
		checked = row + len(dst)/n
		return nil
	}}
}

// A Fitting is an adapter that is being fitted. Its figures are there once it was written.
type Fitting struct {
	*Made
	mu   sync.Mutex
	fits map[string]Fit
}

// Fits are what became of the modules, in the order of their names.
func (f *Fitting) Fits() []Fit {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Fit
	for _, m := range f.modules {
		if x, ok := f.fits[m.path]; ok {
			out = append(out, x)
		}
	}
	return out
}

// NewFit plans an adapter that makes up for the difference of the weights of source and those of base, which may be quantized; a nil base
// is zeros. Modules are fitted as they are written, unless their ranks follow from the energy.
func NewFit(ctx context.Context, source, base *weights.Model, opt FitOptions) (*Fitting, error) {
	if opt.Iterations == 0 {
		opt.Iterations = 6
	}
	byName := map[string]weights.Tensor{}
	if base != nil {
		for _, t := range Linears(base) {
			byName[t.Name] = t
		}
	}
	f := &Fitting{Made: &Made{}, fits: map[string]Fit{}}
	ranks := map[string]int64{}
	most := int64(0)
	for _, w := range Linears(source) {
		var q *weights.Tensor
		if base != nil {
			t, ok := byName[w.Name]
			if !ok {
				continue
			}
			if !slices.Equal(t.Shape, w.Shape) {
				return nil, &Error{Path: base.Source.Path, Key: w.Name, Expect: fmt.Sprintf("shape %v, as in %s", w.Shape, source.Source.Path), Found: fmt.Sprint(t.Shape)}
			}
			if source.Quantized == nil && base.Quantized != nil && t.Method == "" {
				continue // it is not quantized there
			}
			q = &t
		}
		x := &fitted{w: w, q: q, opt: &opt, path: modulePath(&w), rank: min(opt.Rank, w.Shape[0], w.Shape[1])}
		if opt.Energy > 0 {
			if err := x.solve(ctx); err != nil {
				return nil, err
			}
		}
		m := madeModule{path: x.path, aShape: []int64{x.rank, w.Shape[1]}, bShape: []int64{w.Shape[0], x.rank}}
		m.factors = func() (a, b []float32, err error) {
			if err := x.solve(ctx); err != nil {
				return nil, nil, err
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fits[x.path] = x.fit
			a, b = x.a, x.b
			x.a, x.b = nil, nil
			return a, b, nil
		}
		ranks[x.path] = x.rank
		most = max(most, x.rank)
		f.modules = append(f.modules, m)
	}
	if len(f.modules) == 0 {
		return nil, errNothing
	}
	return f, f.configure(opt, ranks, most)
}

var errNothing = errors.New("the two models have no linear layer in common")

// configure composes the config: a module of another rank than most has it in rank_pattern, and the same scaling.
func (f *Fitting) configure(opt FitOptions, ranks map[string]int64, most int64) (err error) {
	alpha := opt.Alpha
	if alpha == 0 {
		alpha = float64(most)
	}
	patterns, alphas := map[string]int64{}, map[string]float64{}
	for path, r := range ranks {
		if r != most {
			patterns[path], alphas[path] = r, alpha/float64(most)*float64(r)
		}
	}
	f.Config, err = newConfig(opt.Base, most, alpha, f.modules, map[string]any{"rank_pattern": patterns, "alpha_pattern": alphas})
	return err
}

// fitted is one module.
type fitted struct {
	w    weights.Tensor
	q    *weights.Tensor
	opt  *FitOptions
	path string
	rank int64
	fit  Fit
	a, b []float32
	done bool
}

// solve finds the factors: B = U sqrt(S/s), A = sqrt(S/s) V' for a scaling s, so that s B A is the best of its rank. (PEFT's LoftQ
// leaves s out: with lora_alpha of twice the rank it then adds twice what it should.)
func (x *fitted) solve(ctx context.Context) error {
	if x.done {
		return nil
	}
	if x.opt.OLoRA {
		x.done = true
		return x.qr(ctx)
	}
	in, err := x.inputs()
	if err != nil {
		return err
	}
	d, err := svd(ctx, in.rows(&x.w, x.q), int(x.rank), x.opt.Iterations, x.opt.Jobs, x.opt.Seed+hash(x.path))
	if err != nil {
		return err
	}
	keep := len(d.s)
	if e := x.opt.Energy; e > 0 {
		for k := 1; k < keep; k++ {
			if d.energy(k) >= e {
				keep = k
				break
			}
		}
		x.rank = int64(max(keep, 1))
	}
	whole := in.rows(&x.w, nil)
	ww, err := whole.squares(ctx, make([]float32, whole.panel()), x.opt.Jobs)
	if err != nil {
		return err
	}
	x.fit = Fit{Module: x.path, Tensor: x.w.Name, Rank: x.rank, Energy: d.energy(keep)}
	if ww > 0 {
		x.fit.Before, x.fit.After = math.Sqrt(d.total/ww), math.Sqrt(max(0, d.total*(1-x.fit.Energy))/ww)
	}
	x.factors(d, keep, in)
	x.done = true
	return nil
}

func (x *fitted) factors(d *approximation, keep int, in *inputs) {
	s := x.opt.scaling()
	m, n, r := int(x.w.Shape[0]), int(x.w.Shape[1]), int(x.rank)
	x.a, x.b = make([]float32, r*n), make([]float32, m*r)
	in.divide(d.v, keep, func(k int, row []float64) {
		root := math.Sqrt(d.s[k] / s)
		for j, v := range row {
			x.a[k*n+j] = float32(v * root)
		}
	})
	for k := range keep {
		root := math.Sqrt(d.s[k] / s)
		for i := range m {
			x.b[i*r+k] = float32(float64(d.u.At(i, k)) * root)
		}
	}
}

// scaling is that of the adapter.
func (o *FitOptions) scaling() float64 {
	if o.Alpha > 0 {
		return o.Alpha / float64(o.Rank)
	}
	return 1
}

// Rest lists the tensors that differ between two models and are not among the modules: what an adapter of linear layers leaves.
func (f *Fitting) Rest(source, base *weights.Model) ([]Left, error) {
	taken := map[string]bool{}
	for _, x := range f.Fits() {
		taken[x.Tensor] = true
	}
	other := byName(base.Tensors)
	var out []Left
	for i := range source.Tensors {
		t := &source.Tensors[i]
		q := other[t.Name]
		if taken[t.Name] || len(t.Parts) > 0 || !weights.IsFloat(t.DType) || t.DType == safetensors.F64 || t.Elems() == 0 {
			continue
		}
		if q == nil || !slices.Equal(q.Shape, t.Shape) || q.DType == safetensors.F64 || !weights.IsFloat(q.DType) {
			out = append(out, Left{t.Name, 1})
			continue
		}
		d, w, err := apart(t, q)
		if err != nil {
			return nil, err
		}
		if d > 0 {
			out = append(out, Left{t.Name, math.Sqrt(d / max(w, math.SmallestNonzeroFloat64))})
		}
	}
	return out, nil
}

// apart is the sum of the squares of the difference of two tensors, and that of the second.
func apart(t, q *weights.Tensor) (d, w float64, err error) {
	x := works.Get().(*work)
	defer works.Put(x)
	for first := int64(0); first < t.Elems(); first += chunk {
		n := min(chunk, t.Elems()-first)
		if err := errors.Join(read(t, x, x.w[:n], first), read(q, x, x.delta[:n], first)); err != nil {
			return 0, 0, err
		}
		for i, v := range x.w[:n] {
			e := float64(v) - float64(x.delta[i])
			d += e * e
			w += float64(x.delta[i]) * float64(x.delta[i])
		}
	}
	return d, w, nil
}

// FitsByKind joins the modules of one name and rank in different layers: the means of their figures.
func FitsByKind(list []Fit) []Fit {
	type kind struct {
		name string
		rank int64
	}
	var order []kind
	sums, n := map[kind]Fit{}, map[kind]int{}
	for _, f := range list {
		k := kind{f.Module[strings.LastIndexByte(f.Module, '.')+1:], f.Rank}
		x := sums[k]
		if n[k] == 0 {
			order, x = append(order, k), Fit{Module: f.Module, Tensor: f.Tensor, Rank: f.Rank}
		}
		x.Energy, x.Before, x.After = x.Energy+f.Energy, x.Before+f.Before, x.After+f.After
		sums[k], n[k] = x, n[k]+1
	}
	var out []Fit
	for _, k := range order {
		x, c := sums[k], float64(n[k])
		x.Energy, x.Before, x.After = x.Energy/c, x.Before/c, x.After/c
		if n[k] > 1 {
			x.Module = fmt.Sprintf("%s (%d)", k.name, n[k])
		}
		out = append(out, x)
	}
	return out
}
