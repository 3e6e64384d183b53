package evaluate

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

func count(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i)
	}
	return ids
}

// The loop of transformers' guide (docs/source/en/perplexity.md), as it stands there: begin, end and trg_len of each window, of
// which the labels of the first -trg_len tokens are ignored and the rest shifted by one.
func guide(n, maxLength, stride int) (targets [][]int32) {
	prevEnd := 0
	for begin := 0; begin < n; begin += stride {
		end := min(begin+maxLength, n)
		trgLen := end - prevEnd
		var scored []int32
		for i := begin + 1; i < end; i++ { // labels[1:]
			if i >= end-trgLen {
				scored = append(scored, int32(i))
			}
		}
		targets = append(targets, scored)
		prevEnd = end
		if end == n {
			break
		}
	}
	return targets
}

func TestCut(t *testing.T) {
	for _, n := range []int{2, 3, 15, 16, 17, 31, 32, 33, 64, 100} {
		for _, c := range []Cutting{{Context: 16, Stride: 16}, {Context: 16, Stride: 8}, {Context: 16, Stride: 15}, {Context: 2, Stride: 1}, {Context: 200, Stride: 3}} {
			windows, err := c.Cut([][]int32{count(n)})
			if err != nil {
				t.Fatal(err)
			}
			var got, want [][]int32
			for _, w := range windows {
				if len(w.IDs) != len(w.Targets) || w.From < 0 || w.From >= len(w.IDs) {
					t.Fatalf("%d tokens, %+v: window %+v", n, c, w)
				}
				for i, id := range w.IDs {
					if w.Targets[i] != id+1 {
						t.Fatalf("%d tokens, %+v: after %d comes %d", n, c, id, w.Targets[i])
					}
				}
				got = append(got, w.Targets[w.From:])
			}
			for _, s := range guide(n, c.Context, c.Stride) {
				if len(s) > 0 {
					want = append(want, s)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%d tokens, %+v: scored (-want +got)\n%s", n, c, diff)
			}
		}
	}
	for _, c := range []Cutting{{Context: 1, Stride: 1}, {Context: 16}, {Context: 16, Stride: 17}} {
		if _, err := c.Cut([][]int32{count(20)}); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// llama.cpp's perplexity scores n_ctx - 1 - n_ctx/2 tokens of each of n / n_ctx windows (tools/perplexity/perplexity.cpp).
func TestCutLlama(t *testing.T) {
	begin := int32(99)
	windows, err := Cutting{Context: 16, Llama: true, Begin: &begin}.Cut([][]int32{count(39), count(5)})
	if err != nil {
		t.Fatal(err)
	}
	if len(windows) != 2 || Scored(windows) != 2*(16-1-8) {
		t.Fatalf("%d windows, %d tokens scored", len(windows), Scored(windows))
	}
	w := windows[1]
	if w.IDs[0] != 99 || !slices.Equal(w.IDs[1:], count(39)[17:31]) || w.Targets[w.From] != 16+9 {
		t.Errorf("second window %+v", w)
	}
}

func TestFigures(t *testing.T) {
	windows := []Window{{IDs: count(40), Targets: count(40), From: 30}, {IDs: count(20), Targets: count(20), From: 18}}
	n := Scored(windows)
	src, q := &scores{nll: make([]float64, n)}, &scores{nll: make([]float64, n), kl: make([]float64, n), same: 9}
	for i := range n {
		src.nll[i] = float64(i)
		q.nll[i] = float64(i) + 0.5
		q.kl[i] = float64(i)
	}
	var c Checkpoint
	if err := c.fill(q, src, windows); err != nil {
		t.Fatal(err)
	}
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-12*math.Abs(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	// 12 tokens with 0, 1, ..., 11: mean 5.5, variance 13.
	near("perplexity", c.Perplexity, math.Exp(6))
	near("its standard error", c.PerplexitySE, math.Exp(6)*math.Sqrt(13./12))
	near("ratio", *c.Ratio, math.Exp(0.5))
	near("the ratio's standard error", *c.RatioSE, 0)
	near("mean KL", *c.KLMean, 5.5)
	near("median KL", *c.KLMedian, 5.5)
	near("99 % KL", *c.KLP99, 10.89)
	near("largest KL", *c.KLMax, 11)
	near("same top-1", *c.SameTop1, 0.75)
	if len(c.Positions) != 2 || c.Positions[0].Tokens != 2+2 || c.Positions[1].From != 32 || c.Positions[1].To != 40 || c.Positions[1].Tokens != 8 {
		t.Errorf("positions %+v", c.Positions)
	}
	near("KL of the first", *c.Positions[0].KLMean, (0.+1+10+11)/4)

	q.nll[3] = math.NaN()
	if err := c.fill(q, src, windows); err == nil {
		t.Error("no error of predictions that are no numbers")
	}
}

func TestDivergence(t *testing.T) {
	p, q := []float32{1, 2, 3}, []float32{3, 1, 0}
	softmax := func(v []float32) []float64 {
		var sum float64
		out := make([]float64, len(v))
		for i, x := range v {
			out[i] = math.Exp(float64(x))
			sum += out[i]
		}
		for i := range out {
			out[i] /= sum
		}
		return out
	}
	a, b := softmax(p), softmax(q)
	want := 0.
	for i := range a {
		want += a[i] * math.Log(a[i]/b[i])
	}
	pLSE, top := logSumExp(p)
	qLSE, _ := logSumExp(q)
	if got := divergence(p, q, pLSE, qLSE); math.Abs(got-want) > 1e-12 || top != 2 {
		t.Errorf("divergence %v, want %v; most likely %d", got, want, top)
	}
	if got := divergence(p, p, pLSE, pLSE); got != 0 {
		t.Errorf("divergence %v from itself", got)
	}
}

// However the tokens come in groups, a sample is the same, spread over all of them.
func TestSample(t *testing.T) {
	l := forward.Linear{Name: "w", Expert: -1, In: 1, Out: 2}
	for _, n := range []int{0, 1, 7, 8, 9, 16, 17, 100} {
		var want []float32
		for _, group := range []int{1, 3, 1000} {
			s := newSample([]forward.Linear{l}, 12*8)
			for at := 0; at < n; at += group {
				k := min(group, n-at)
				in, out := linalg.New(make([]float32, k), k, 1), linalg.New(make([]float32, 2*k), k, 2)
				for i := range k {
					in.Set(i, 0, float32(at+i))
					out.Set(i, 1, float32(at+i))
				}
				if err := s.take(l, in, out); err != nil {
					t.Fatal(err)
				}
			}
			x := &s.of[0]
			if want == nil {
				want = x.in
			}
			if !slices.Equal(x.in, want) || x.rows != len(x.in) || x.rows > 8 || x.rows < min(n, 4) {
				t.Errorf("%d tokens by %d: sample %v, want %v", n, group, x.in, want)
			}
			for i, v := range x.in {
				if x.out[2*i+1] != v || i > 0 && v-x.in[i-1] != x.in[1]-x.in[0] {
					t.Errorf("%d tokens by %d: sample %v with outputs %v", n, group, x.in, x.out)
				}
			}
		}
	}
	if err := newSample(nil, 1).take(l, linalg.Matrix{}, linalg.Matrix{}); err == nil {
		t.Error("no error of a Linear of another layer")
	}
}
