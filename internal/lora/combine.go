package lora

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"
)

// CombineMethods are the ways to combine adapters, PEFT's names for them (tuners/lora/model.py, add_weighted_adapter).
var CombineMethods = []string{"cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"}

// CombineOptions say how adapters become one.
type CombineOptions struct {
	Method    string    // one of CombineMethods
	Weights   []float64 // of each adapter
	Rank      int64     // of the result of svd; 0: the largest of the adapters'
	Density   float64   // share of the elements that ties, dare and magnitude_prune keep
	Frequency bool      // ties elects a sign by counting, not by summing
	Seed      uint64    // of dare
}

// Combine makes one adapter of several. cat is exact: its factors are the others' side by side. svd is the best of its rank. The
// rest add factors, not updates, and are there because PEFT has them. The result has scaling 1.
func Combine(adapters []*Adapter, opt CombineOptions) (*Made, error) {
	if len(opt.Weights) != len(adapters) {
		return nil, fmt.Errorf("%d weights for %d adapters", len(opt.Weights), len(adapters))
	}
	method := opt.Method
	if len(adapters) == 1 && method != "svd" && method != "cat" {
		method = "linear"
	}
	var ranks []int64
	byPath := map[string][]source{}
	var paths []string
	saved := map[string]Saved{}
	var replaced []string
	for i, a := range adapters {
		if err := combinable(a); err != nil {
			return nil, err
		}
		if err := a.CheckFinite(); err != nil {
			return nil, err
		}
		most := int64(0)
		for _, m := range a.Modules {
			if byPath[m.Path] == nil {
				paths = append(paths, m.Path)
			}
			byPath[m.Path] = append(byPath[m.Path], source{a, m, opt.Weights[i]})
			most = max(most, m.Rank())
		}
		ranks = append(ranks, most)
		for _, s := range a.Saved {
			other, twice := saved[s.Name]
			if twice { // PEFT saves the base's embeddings with each adapter that changes them
				same, err := equalTensors(other.Tensor, s.Tensor)
				if err != nil {
					return nil, err
				}
				if !same {
					return nil, &Error{Path: a.Path, Key: s.Tensor.Name, Expect: "one adapter at most that replaces a tensor", Found: "two"}
				}
			}
			saved[s.Name] = s
		}
		if a.Config != nil {
			replaced = append(replaced, a.Config.Saved...)
		}
	}
	slices.Sort(paths)
	rank, err := combinedRank(adapters, ranks, method, opt.Rank)
	if err != nil {
		return nil, err
	}
	made := &Made{}
	for _, path := range paths {
		list := byPath[path]
		m, err := combined(path, list, method, rank, &opt)
		if err != nil {
			return nil, err
		}
		made.modules = append(made.modules, m)
	}
	for _, name := range sortedNames(saved) {
		c := saved[name]
		if path, ok := strings.CutSuffix(name, ".weight"); ok && byPath[path] != nil { // where PEFT has it in a module with factors
			c.Name = path + ".base_layer.weight"
		}
		made.copies = append(made.copies, c)
	}
	base, more := "", map[string]any{}
	if c := adapters[0].Config; c != nil {
		base, more["bias"], more["fan_in_fan_out"] = c.Base, c.Bias, c.FanInOut
		if slices.Sort(replaced); len(replaced) > 0 {
			more["modules_to_save"] = slices.Compact(replaced)
		}
	}
	made.Config, err = newConfig(base, rank, float64(rank), made.modules, more)
	return made, err
}

func sortedNames(m map[string]Saved) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// combinable refuses what is no sum of matrices.
func combinable(a *Adapter) error {
	e := &Error{Path: a.Path, Expect: "adapters of plain low-rank updates, to be combined"}
	for _, m := range a.Modules {
		e.Key = m.Path
		switch {
		case m.Tokens != nil:
			e.Found = "trained rows of an embedding"
		case m.Magnitude != nil:
			e.Found = "DoRA, whose update depends on the base"
			e.Hint = "merge it into the base"
		case m.Bias != nil:
			e.Found = "lora_bias"
		case strings.HasSuffix(m.Path, ".base_layer") || a.Config != nil && len(a.Config.Parameters) > 0:
			e.Found = "target_parameters, which PEFT does not combine either"
		default:
			continue
		}
		return e
	}
	return nil
}

func combinedRank(adapters []*Adapter, ranks []int64, method string, wanted int64) (int64, error) {
	var sum int64
	for _, r := range ranks {
		sum += r
	}
	switch method {
	case "cat":
		return sum, nil
	case "svd":
		if wanted > 0 {
			return wanted, nil
		}
		return slices.Max(ranks), nil
	}
	for i, r := range ranks {
		if r != ranks[0] {
			return 0, &Error{Path: adapters[i].Path, Expect: fmt.Sprintf("rank %d, as the first adapter has it, for %s", ranks[0], method),
				Found: fmt.Sprint(r), Hint: "cat and svd take adapters of any ranks"}
		}
	}
	return ranks[0], nil
}

// A source is what one adapter has for a module.
type source struct {
	a      *Adapter
	m      *Module
	weight float64
}

func (s *source) scaling() float64 { return s.a.scaling(s.m, s.m.Path, s.m.Rank()) }

// read is A and B.
func (s *source) read() (a, b []float32, err error) {
	if a, err = readFloats(s.m.A); err == nil {
		b, err = readFloats(s.m.B)
	}
	return a, b, err
}

// combined is one module of the result.
func combined(path string, list []source, method string, rank int64, opt *CombineOptions) (madeModule, error) {
	first := list[0].m
	in, out := first.A.Elems()/first.Rank(), first.B.Shape[0]
	m := madeModule{path: path, embedding: first.Embedding,
		aShape: append([]int64{rank}, first.A.Shape[1:]...), bShape: append([]int64{out, rank}, first.B.Shape[2:]...)}
	for _, s := range list {
		if s.m.Embedding != first.Embedding || !slices.Equal(s.m.A.Shape[1:], first.A.Shape[1:]) || s.m.B.Shape[0] != out {
			return m, &Error{Path: s.a.Path, Key: s.m.A.Name, Expect: fmt.Sprintf("an update of [%d, %d], as the others have it", out, in),
				Found: fmt.Sprintf("%v and %v", s.m.A.Shape, s.m.B.Shape), Hint: "adapters of one base can be combined"}
		}
		if method != "cat" && method != "svd" && s.m.Rank() != rank {
			return m, &Error{Path: s.a.Path, Key: s.m.A.Name, Expect: fmt.Sprintf("rank %d for %s", rank, method), Found: fmt.Sprint(s.m.Rank()), Hint: "cat and svd take any ranks"}
		}
	}
	m.factors = func() (a, b []float32, err error) {
		switch method {
		case "cat":
			return concatenated(list, in, out, rank)
		case "svd":
			return truncated(list, in, out, rank)
		}
		return added(path, list, method, opt)
	}
	return m, nil
}

// concatenated is A = [w1 s1 A1; ...] and B = [B1 | ...], with zeros behind them up to the rank.
func concatenated(list []source, in, out, rank int64) (a, b []float32, err error) {
	a, b = make([]float32, rank*in), make([]float32, out*rank)
	at := int64(0)
	for i := range list {
		s := &list[i]
		fa, fb, err := s.read()
		if err != nil {
			return nil, nil, err
		}
		r := s.m.Rank()
		w, c := float32(s.weight), float32(s.scaling())
		for k, v := range fa {
			a[at*in+int64(k)] = float32(v*w) * c // two roundings, as PEFT's
		}
		for row := range out {
			copy(b[row*rank+at:][:r], fb[row*r:][:r])
		}
		at += r
	}
	return a, b, nil
}

// truncated is the best approximation of the sum of the updates by one of a rank: A has the right singular vectors, B the left ones
// times the singular values. The sum itself is never made: it is B'A' with the factors side by side, and of these the QR
// factors, whose middle is small.
func truncated(list []source, in, out, rank int64) (a, b []float32, err error) {
	var all int64
	for _, s := range list {
		all += s.m.Rank()
	}
	ca, cb, err := concatenated(list, in, out, all)
	if err != nil {
		return nil, nil, err
	}
	left, right := dense(cb, out, all, false), dense(ca, all, in, true)
	u, s, v := smallSVD(left, right)
	a, b = make([]float32, rank*in), make([]float32, out*rank)
	for k := range min(int(rank), len(s)) {
		for j := range int(in) {
			a[k*int(in)+j] = float32(v.At(j, k))
		}
		for i := range int(out) {
			b[i*int(rank)+k] = float32(u.At(i, k) * s[k])
		}
	}
	return a, b, nil
}

// dense is a row-major matrix in float64, or its transpose.
func dense(f []float32, rows, cols int64, turn bool) *mat.Dense {
	wide := make([]float64, len(f))
	for i, v := range f {
		wide[i] = float64(v)
	}
	m := mat.NewDense(int(rows), int(cols), wide)
	if turn {
		return mat.DenseCopyOf(m.T())
	}
	return m
}

// smallSVD is that of left*right', two tall matrices.
func smallSVD(left, right *mat.Dense) (u *mat.Dense, s []float64, v *mat.Dense) {
	ql, rl := orthogonal(left)
	qr, rr := orthogonal(right)
	var middle, mu, mv mat.Dense
	middle.Mul(rl, rr.T())
	var svd mat.SVD
	if !svd.Factorize(&middle, mat.SVDThin) {
		panic("lora: internal error: no singular values of a finite matrix")
	}
	svd.UTo(&mu)
	svd.VTo(&mv)
	u, v = new(mat.Dense), new(mat.Dense)
	u.Mul(ql, &mu)
	v.Mul(qr, &mv)
	return u, svd.Values(nil), v
}

// orthogonal takes a tall matrix apart into q with orthonormal columns and a small r: m = q*r. It goes by the eigenvalues of m'm,
// which loses half of float64's digits and leaves all of float32's; directions below them are left out.
func orthogonal(m *mat.Dense) (q, r *mat.Dense) {
	_, n := m.Dims()
	var sym mat.SymDense
	sym.SymOuterK(1, m.T())
	var e mat.EigenSym
	if !e.Factorize(&sym, true) {
		panic("lora: internal error: no eigenvalues of a finite matrix")
	}
	var vectors mat.Dense
	e.VectorsTo(&vectors)
	values := e.Values(nil)
	from := 0
	for from < n-1 && values[from] <= 1e-15*values[n-1] {
		from++
	}
	scale := mat.NewDense(n, n-from, nil)
	r = mat.NewDense(n-from, n, nil)
	for k := from; k < n; k++ {
		root := math.Sqrt(max(values[k], 0))
		for i := range n {
			if root > 0 {
				scale.Set(i, k-from, vectors.At(i, k)/root)
			}
			r.Set(k-from, i, vectors.At(i, k)*root)
		}
	}
	q = new(mat.Dense)
	q.Mul(m, scale)
	return q, r
}

// added adds the factors, each with the root of its weight (tuners/lora/model.py, _generalized_task_arithmetic_weighted_adapter).
func added(path string, list []source, method string, opt *CombineOptions) (a, b []float32, err error) {
	var as, bs [][]float32
	var wa, wb []float32
	for i := range list {
		s := &list[i]
		fa, fb, err := s.read()
		if err != nil {
			return nil, nil, err
		}
		w := s.weight * s.scaling()
		root := math.Sqrt(math.Abs(w))
		as, bs = append(as, fa), append(bs, fb)
		wb = append(wb, float32(root))
		if w < 0 {
			root = -root
		}
		wa = append(wa, float32(root))
	}
	r := rand.New(rand.NewPCG(opt.Seed, hash(path)))
	return mix(as, wa, method, opt, r), mix(bs, wb, method, opt, r), nil
}

// hash is FNV-1a: a module's random numbers do not depend on which others there are.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is peft/utils/merge_utils.py: prune, elect signs, weigh and add.
func mix(list [][]float32, weights []float32, method string, opt *CombineOptions, r *rand.Rand) []float32 {
	for i := range list {
		switch method {
		case "ties", "magnitude_prune":
			keepLargest(list[i], opt.Density)
		case "dare_linear", "dare_ties":
			drop(list[i], opt.Density, r)
		}
	}
	out := make([]float32, len(list[0]))
	elect := method == "ties" || method == "dare_ties"
	for i := range out {
		var sign float32
		if elect {
			sign = elected(list, i, opt.Frequency)
		}
		var sum float32
		n := 0
		for k := range list {
			x := list[k][i]
			if elect && signOf(x) != sign {
				continue
			}
			n++
			sum += float32(x * weights[k])
		}
		if elect && n > 1 {
			sum /= float32(n)
		}
		out[i] = sum
	}
	return out
}

func signOf(x float32) float32 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// elected is the sign that most of the elements have, by sum or by number.
func elected(list [][]float32, i int, frequency bool) float32 {
	var sum float32
	for k := range list {
		x := list[k][i]
		if frequency {
			x = signOf(x)
		}
		sum += x
	}
	if sum >= 0 {
		return 1
	}
	return -1
}

// keepLargest zeroes all but the share of the elements that are largest in magnitude; of equal ones the first stay.
func keepLargest(f []float32, density float64) {
	k := int(density * float64(len(f)))
	if density >= 1 || k >= len(f) {
		return
	}
	order := make([]int, len(f))
	for i := range order {
		order[i] = i
	}
	abs := func(i int) float32 { return float32(math.Abs(float64(f[i]))) }
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(abs(j), abs(i)) })
	for _, i := range order[k:] {
		f[i] = 0
	}
}

// drop keeps each element with a probability, and scales what stays up by it.
func drop(f []float32, density float64, r *rand.Rand) {
	if density >= 1 {
		return
	}
	for i := range f {
		if r.Float64() < density {
			f[i] /= float32(density)
		} else {
			f[i] = 0
		}
	}
}
