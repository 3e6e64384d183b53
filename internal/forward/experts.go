package forward

import (
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// A choice is an expert that a token is routed to.
type choice struct {
	expert int
	weight float32
}

// route writes to out what the experts make of x, each with its tokens, added in the order of the experts.
func (p *pass) route(out, x linalg.Matrix) error {
	e := p.l.experts
	logits := linalg.New(make([]float32, x.Rows*e.n), x.Rows, e.n)
	if err := p.linear(e.router, logits, x); err != nil {
		return err
	}
	var correction []float32
	if e.correction != nil {
		var err error
		if correction, err = p.d.vector(e.correction, 0, e.n); err != nil {
			return err
		}
	}
	chosen := make([]choice, x.Rows*e.topK)
	stream.Parts(x.Rows, p.d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			e.choose(chosen[i*e.topK:][:e.topK], logits.Row(i), correction)
		}
	})
	tokens := make([][]int, e.n)
	for i, c := range chosen {
		tokens[c.expert] = append(tokens[c.expert], i)
	}
	p.eachRow(out, func(row []float32) { clear(row) })
	for i, list := range tokens {
		if len(list) == 0 {
			continue
		}
		in, y := p.matrix(bufExpertIn, len(list), x.Cols), p.matrix(bufExpertOut, len(list), x.Cols)
		for r, at := range list {
			copy(in.Row(r), x.Row(at/e.topK))
		}
		if err := p.mlp(&e.each[i], y, in); err != nil {
			return err
		}
		for r, at := range list {
			add(out.Row(at/e.topK), y.Row(r), chosen[at].weight)
		}
	}
	if e.shared == nil {
		return nil
	}
	return p.shared(out, x)
}

// shared adds the expert that every token goes to.
func (p *pass) shared(out, x linalg.Matrix) error {
	e := p.l.experts
	y := p.matrix(bufExpertOut, x.Rows, x.Cols)
	if err := p.mlp(e.shared, y, x); err != nil {
		return err
	}
	weights := linalg.New(make([]float32, x.Rows), x.Rows, 1)
	if e.sharedGate != nil {
		if err := p.linear(e.sharedGate, weights, x); err != nil {
			return err
		}
	}
	stream.Parts(x.Rows, p.d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			w := float32(1)
			if e.sharedGate != nil {
				w = float32(sigmoid(float64(weights.At(i, 0))))
			}
			add(out.Row(i), y.Row(i), w)
		}
	})
	return nil
}

func add(to, from []float32, w float32) {
	for j, v := range from {
		to[j] += float32(v * w)
	}
}

// choose picks experts by the logits of one token. Of equal ones it takes the first.
func (e *boundExperts) choose(dst []choice, logits, correction []float32) {
	score := make([]float64, len(logits))
	switch e.scores {
	case softmaxAll:
		softmaxOf(score, logits)
	case softmaxTop:
		for i, v := range logits {
			score[i] = float64(v)
		}
	case sigmoids:
		for i, v := range logits {
			score[i] = sigmoid(float64(v))
		}
	}
	by := slices.Clone(score)
	for i, c := range correction {
		by[i] += float64(c)
	}
	e.limitGroups(by)
	for k := range dst {
		best := 0
		for i, v := range by {
			if v > by[best] {
				best = i
			}
		}
		dst[k] = choice{expert: best, weight: float32(score[best])}
		by[best] = math.Inf(-1)
	}
	if e.scores == softmaxTop {
		top, w := make([]float32, len(dst)), make([]float64, len(dst))
		for k, c := range dst {
			top[k] = c.weight
		}
		softmaxOf(w, top)
		for k := range dst {
			dst[k].weight = float32(w[k])
		}
	}
	sum := 1.0
	if e.normalize {
		sum = 0
		for _, c := range dst {
			sum += float64(c.weight)
		}
		if e.scores == sigmoids {
			sum += 1e-20
		}
	}
	for k := range dst {
		dst[k].weight = float32(float64(dst[k].weight) / sum * e.scale)
	}
}

// limitGroups takes the experts out of the choice that are in none of the best groups: those whose two best have the largest
// sum.
func (e *boundExperts) limitGroups(by []float64) {
	if e.groups <= 1 || e.topGroups >= e.groups {
		return
	}
	size := len(by) / e.groups
	type group struct {
		at  int
		sum float64
	}
	all := make([]group, e.groups)
	for g := range all {
		s := slices.Clone(by[g*size:][:size])
		slices.Sort(s)
		all[g] = group{g, s[size-1]}
		if size > 1 {
			all[g].sum += s[size-2]
		}
	}
	slices.SortStableFunc(all, func(a, b group) int {
		switch {
		case a.sum > b.sum:
			return -1
		case a.sum < b.sum:
			return 1
		}
		return 0
	})
	for _, g := range all[e.topGroups:] {
		for i := range size {
			by[g.at*size+i] = math.Inf(-1)
		}
	}
}

func softmaxOf(dst []float64, x []float32) {
	top := slices.Max(x)
	var sum float64
	for i, v := range x {
		dst[i] = exp(float64(v) - float64(top))
		sum += dst[i]
	}
	for i := range dst {
		dst[i] /= sum
	}
}
