package lora

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Summary is what an adapter's file alone says of one module.
type Summary struct {
	Module    string
	Kind      string // "lora", "dora", "embedding", "convolution", "parameter", "tokens"
	Rank      int64  // of A; for the experts of a parameter the sum of theirs
	Alpha     float64
	Scaling   float64
	In, Out   int64
	Params    int64
	Norm      float64 // |D|_F
	Effective float64 // the rank that D's singular values amount to, see [effectiveRank]; 0 if it is not found out

	Tensor   string  // of the base, "" where none is given
	Relative float64 // |D|_F/|W|_F; 0 without a base
}

// maxGram is the largest rank whose singular values are found: their cost grows with its cube.
const maxGram = 512

// Summaries describes the modules of an adapter. It reads all of it.
func (a *Adapter) Summaries() ([]Summary, error) {
	out := make([]Summary, 0, len(a.Modules))
	for _, m := range a.Modules {
		s := Summary{Module: m.Path, Kind: "lora"}
		s.Params = m.params()
		if m.Tokens != nil {
			s.Kind, s.In, s.Out = "tokens", m.Tokens.Shape[0], m.Tokens.Shape[1]
			out = append(out, s)
			continue
		}
		s.Rank, s.In, s.Out = m.Rank(), m.A.Elems()/m.Rank(), m.B.Shape[0]
		switch {
		case m.Magnitude != nil:
			s.Kind = "dora"
		case m.Embedding:
			s.Kind = "embedding"
		case len(m.A.Shape) > 2:
			s.Kind = "convolution"
		}
		r := s.Rank
		name := m.Path
		if a.Config != nil {
			want := a.Config.Rank
			if v, ok := a.Config.Ranks.Lookup(name); ok {
				want = int64(v)
			}
			if want != r && r%want == 0 && len(a.Config.Parameters) > 0 {
				s.Kind, r = "parameter", want // r for each expert
			}
		}
		s.Alpha, s.Scaling = a.Alpha(m, name), a.scaling(m, name, r)
		if s.Kind != "parameter" {
			var err error
			if s.Norm, s.Effective, err = spectrum(m, s.Scaling); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// params is the number of elements of a module.
func (m *Module) params() (n int64) {
	for _, t := range []*safetensors.Tensor{m.A, m.B, m.Bias, m.Magnitude, m.Tokens} {
		if t != nil {
			n += t.Elems()
		}
	}
	return n
}

// spectrum is |s*B*A|_F and its effective rank, from the Gram matrices of the factors: the squares of the singular values of BA
// are the eigenvalues of (B'B)(AA').
func spectrum(m *Module, scale float64) (norm, effective float64, err error) {
	if m.Rank() > maxGram {
		return 0, 0, nil
	}
	fa, err := readFloats(m.A)
	if err != nil {
		return 0, 0, err
	}
	fb, err := readFloats(m.B)
	if err != nil {
		return 0, 0, err
	}
	r := int(m.Rank())
	a, b := linalg.New(fa, r, len(fa)/r), linalg.New(fb, len(fb)/r, r)
	values := singularValues(gram(a), gram(b.T()))
	var sum float64
	for _, v := range values {
		sum += v * v
	}
	return scale * math.Sqrt(sum), effectiveRank(values), nil
}

// gram is m*m' in float64.
func gram(m linalg.Matrix) *mat.SymDense {
	g := linalg.New(make([]float32, m.Rows*m.Rows), m.Rows, m.Rows)
	linalg.MulAdd(g, m, m.T(), 1)
	out := mat.NewSymDense(m.Rows, nil)
	for i := range m.Rows {
		for j := i; j < m.Rows; j++ {
			out.SetSym(i, j, float64(g.At(i, j)))
		}
	}
	return out
}

// singularValues are those of B*A, descending, from AA' and B'B.
func singularValues(aa, bb *mat.SymDense) []float64 {
	var e mat.EigenSym
	if !e.Factorize(aa, true) {
		return nil
	}
	n := aa.SymmetricDim()
	var q mat.Dense
	e.VectorsTo(&q)
	for j, d := range e.Values(nil) {
		d = math.Sqrt(max(d, 0))
		for i := range n {
			q.Set(i, j, q.At(i, j)*d)
		}
	}
	var t, s mat.Dense
	t.Mul(bb, &q)
	s.Mul(q.T(), &t)
	sym := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			sym.SetSym(i, j, s.At(i, j))
		}
	}
	if !e.Factorize(sym, false) {
		return nil
	}
	values := e.Values(nil)
	for i, v := range values {
		values[i] = math.Sqrt(max(v, 0))
	}
	slices.Reverse(values)
	return values
}

// effectiveRank is the exponential of the entropy of the singular values (Roy and Vetterli, "The effective rank", EUSIPCO 2007):
// r for r equal ones, 1 for a single one.
func effectiveRank(values []float64) float64 {
	var sum, entropy float64
	for _, v := range values {
		sum += v
	}
	if sum == 0 {
		return 0
	}
	for _, v := range values {
		if p := v / sum; p > 0 {
			entropy -= p * math.Log(p)
		}
	}
	return math.Exp(entropy)
}

// Against holds a summary to a base: the tensors that the modules change and |D|/|W|. tied as in [Options]. It returns what does
// not fit. It reads the tensors that are changed.
func (a *Adapter) Against(tensors []weights.Tensor, tied bool, list []Summary) (problems []error, err error) {
	b := newBase(tensors, tied)
	norms := map[string]float64{}
	for i := range list {
		one := &Adapter{Path: a.Path, Config: a.Config, file: a.file, Modules: []*Module{a.Modules[i]}}
		edits := map[string]*edit{}
		m := a.Modules[i]
		if nested := a.nest(i); nested != nil {
			one.Modules = nested
		}
		if err := b.bind(one, 1, edits, nil); err != nil {
			problems = append(problems, err)
			continue
		}
		var ww float64
		for name, e := range edits {
			if !slices.ContainsFunc(e.updates, func(u update) bool { return u.module == m }) && m.Tokens == nil {
				continue
			}
			n, seen := norms[name]
			if !seen {
				if n, err = squares(e.base); err != nil {
					return nil, err
				}
				norms[name] = n
			}
			ww += n
			if list[i].Tensor == "" || name < list[i].Tensor {
				list[i].Tensor = name
			}
		}
		if ww > 0 {
			list[i].Relative = list[i].Norm / math.Sqrt(ww)
		}
	}
	if err := b.checkComplete(a, tensors); err != nil {
		problems = append(problems, err)
	}
	saved := &Adapter{Path: a.Path, Config: a.Config, file: a.file, Saved: a.Saved}
	for _, s := range a.Saved {
		saved.Saved = []Saved{s}
		if err := b.bind(saved, 1, map[string]*edit{}, nil); err != nil {
			problems = append(problems, err)
		}
	}
	return problems, nil
}

// nest is the modules that update parameters of the same module as module i, where there are several.
func (a *Adapter) nest(i int) []*Module {
	var out []*Module
	for _, m := range a.Modules {
		if bare(m.Path) == bare(a.Modules[i].Path) {
			out = append(out, m)
		}
	}
	if len(out) < 2 {
		return nil
	}
	return out
}

// squares is the sum of squares of a tensor.
func squares(t *weights.Tensor) (float64, error) {
	e := t.Elem()
	raw, f := make([]byte, chunk*e.Size()), make([]float32, chunk)
	var sum float64
	n := t.Elems()
	for first := int64(0); first < n; first += chunk {
		k := min(chunk, n-first)
		if err := t.Read(raw[:k*int64(e.Size())], first); err != nil {
			return 0, err
		}
		kernel.Widen(f[:k], raw, e)
		for _, v := range f[:k] {
			sum += float64(v) * float64(v)
		}
	}
	return sum, nil
}
