package evaluate

import (
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// headRows is how many tokens are scored at a time at most.
const headRows = 1024

// heads scores the tokens, from the hidden states after the last layer.
func (r *run) heads() error {
	vocab, width := r.models[0].Vocab(), r.models[0].Width()
	n := Scored(r.windows)
	step := int(max(16, min(headRows, int64(n), r.opt.MaxMemory/4/int64(8*vocab+4*width))))
	all := make([]scores, len(r.models))
	for i := range all {
		all[i].nll = make([]float64, n)
		if i > 0 {
			all[i].kl = make([]float64, n)
		}
	}
	x := make([]float32, step*width)
	source := make([]float32, step*vocab)
	other := source
	if len(r.models) > 1 {
		other = make([]float32, step*vocab)
	}
	targets := make([]int32, 0, step)
	rows := make([]int, 0, step)
	at := 0
	flush := func() error {
		k := len(rows)
		if k == 0 {
			return nil
		}
		for i := range r.models {
			if err := r.gather(i, x, rows); err != nil {
				return err
			}
			logits := source
			if i > 0 {
				logits = other
			}
			if err := r.models[i].Head(r.ctx, linalg.New(logits[:k*vocab], k, vocab), linalg.New(x[:k*width], k, width)); err != nil {
				return fmt.Errorf("%s: %w", r.models[i].Path, err)
			}
			r.score(&all[i], at, i, k, source, logits, targets)
			_, head := work(&r.models[i])
			r.opt.Progress("output of "+r.models[i].Path, head*int64(k))
		}
		at += k
		rows, targets = rows[:0], targets[:0]
		return nil
	}
	for i, w := range r.windows {
		first, _ := r.states[0].Sequence(i)
		for p := w.From; p < len(w.IDs); p++ {
			rows, targets = append(rows, first+p), append(targets, w.Targets[p])
			if len(rows) == step {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	for i := range r.models {
		if err := r.out[i].fill(&all[i], &all[0], r.windows); err != nil {
			return err
		}
	}
	return nil
}

// gather reads hidden states of checkpoint i, those in a row together.
func (r *run) gather(i int, x []float32, rows []int) error {
	width := r.models[i].Width()
	for from := 0; from < len(rows); {
		to := from + 1
		for to < len(rows) && rows[to] == rows[to-1]+1 {
			to++
		}
		if err := r.states[i].Read(x[from*width:to*width], rows[from]); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// score writes the scores of k tokens of checkpoint i from index at on.
func (r *run) score(s *scores, at, i, k int, source, logits []float32, targets []int32) {
	vocab := r.models[0].Vocab()
	same := make([]bool, k)
	stream.Parts(k, r.opt.Jobs, func(from, to int) {
		for row := from; row < to; row++ {
			q := logits[row*vocab:][:vocab]
			lse, top := logSumExp(q)
			s.nll[at+row] = lse - float64(q[targets[row]])
			if i == 0 {
				continue
			}
			p := source[row*vocab:][:vocab]
			pLSE, pTop := logSumExp(p)
			s.kl[at+row] = divergence(p, q, pLSE, lse)
			same[row] = top == pTop
		}
	})
	for _, b := range same {
		if b {
			s.same++
		}
	}
}

// logSumExp is the logarithm of the sum of exp, and the index of the largest.
func logSumExp(v []float32) (sum float64, top int) {
	for i, x := range v {
		if x > v[top] {
			top = i
		}
	}
	most := float64(v[top])
	for _, x := range v {
		sum += math.Exp(float64(x) - most)
	}
	return most + math.Log(sum), top
}

// divergence is the sum of p (log p - log q) of the distributions with logits p and q; it is never below 0, which rounding can
// bring it to.
func divergence(p, q []float32, pLSE, qLSE float64) (kl float64) {
	for i, x := range p {
		log := float64(x) - pLSE
		kl += math.Exp(log) * (log - (float64(q[i]) - qLSE))
	}
	return max(kl, 0)
}
