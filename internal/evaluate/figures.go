package evaluate

import (
	"fmt"
	"math"
	"slices"
)

// A Result is what an evaluation found out.
type Result struct {
	Text     string  `json:"text,omitempty"`   // the file
	Tokens   string  `json:"tokens,omitempty"` // the file of ids, if it was not a text
	Scored   int     `json:"scored_tokens"`
	Windows  int     `json:"windows"`
	Cutting  Cutting `json:"cutting"`
	Seconds  float64 `json:"seconds"`
	Estimate float64 `json:"estimated_seconds,omitempty"`

	Checkpoints []Checkpoint `json:"checkpoints"` // the source first
}

// A Checkpoint has the figures of one. KL is the divergence KL(source || checkpoint) of the predicted distributions in
// nats; these figures, and those of the layers, are of others than the source alone.
type Checkpoint struct {
	Path         string   `json:"path"`
	Perplexity   float64  `json:"perplexity"`
	PerplexitySE float64  `json:"perplexity_se"` // standard error, from the spread of the tokens' log likelihoods
	Ratio        *float64 `json:"perplexity_ratio,omitempty"`
	RatioSE      *float64 `json:"perplexity_ratio_se,omitempty"` // of paired tokens: the noise of the text is in both
	KLMean       *float64 `json:"kl_mean,omitempty"`
	KLMeanSE     *float64 `json:"kl_mean_se,omitempty"`
	KLMedian     *float64 `json:"kl_median,omitempty"`
	KLP99        *float64 `json:"kl_p99,omitempty"`
	KLMax        *float64 `json:"kl_max,omitempty"`
	SameTop1     *float64 `json:"same_top1,omitempty"` // share of the tokens

	Positions []Position    `json:"positions"`
	Layers    []LayerError  `json:"layers,omitempty"`
	Linears   []LinearError `json:"linears,omitempty"`
}

// A Position has the figures of the tokens at positions From to To of their windows, the upper end excluded.
type Position struct {
	From       int      `json:"from"`
	To         int      `json:"to"`
	Tokens     int      `json:"tokens"`
	Perplexity float64  `json:"perplexity"`
	KLMean     *float64 `json:"kl_mean,omitempty"`
}

// A LayerError is |H' - H| / |H| of the hidden states after a layer, over all tokens: what the layer and all before it did.
type LayerError struct {
	Layer    int     `json:"layer"`
	Relative float64 `json:"relative_error"`
}

// A LinearError is |Y' - Y| / |Y| of a Linear's outputs for the inputs that it has in the source: what its weight alone did,
// on a sample of the tokens.
type LinearError struct {
	Name     string  `json:"name"`
	Layer    int     `json:"layer"`
	Expert   *int    `json:"expert,omitempty"` // of a stack
	Relative float64 `json:"relative_error"`
	Tokens   int     `json:"tokens"`
}

// positions are where the ranges of positions begin.
var positions = []int{0, 32, 128, 512, 2048, 8192, 32768, math.MaxInt}

// scores are those of the tokens of one checkpoint, in the order of the windows.
type scores struct {
	nll, kl []float64
	same    int
}

// mean is the mean of v, and its standard error.
func mean(v []float64) (m, se float64) {
	n := float64(len(v))
	for _, x := range v {
		m += x
	}
	m /= n
	for _, x := range v {
		se += (x - m) * (x - m)
	}
	if n < 2 {
		return m, 0
	}
	return m, math.Sqrt(se / (n * (n - 1)))
}

// quantile is that of sorted values, linear between two.
func quantile(sorted []float64, share float64) float64 {
	at := share * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// fill computes the figures of a checkpoint from its scores and, unless it is the source itself, those of the source.
func (c *Checkpoint) fill(s, source *scores, windows []Window) error {
	m, se := mean(s.nll)
	if math.IsNaN(m) || math.IsInf(m, 0) {
		return fmt.Errorf("%s: its predictions are no finite numbers", c.Path)
	}
	c.Perplexity = math.Exp(m)
	c.PerplexitySE = c.Perplexity * se
	if s != source {
		c.against(s, source)
	}
	c.byPosition(s, windows)
	return nil
}

func (c *Checkpoint) against(s, source *scores) {
	d := make([]float64, len(s.nll))
	for i := range d {
		d[i] = s.nll[i] - source.nll[i]
	}
	m, se := mean(d)
	ratio := math.Exp(m)
	c.Ratio, c.RatioSE = &ratio, new(float64)
	*c.RatioSE = ratio * se
	klMean, klSE := mean(s.kl)
	sorted := slices.Sorted(slices.Values(s.kl))
	median, p99, most := quantile(sorted, 0.5), quantile(sorted, 0.99), sorted[len(sorted)-1]
	same := float64(s.same) / float64(len(s.kl))
	c.KLMean, c.KLMeanSE, c.KLMedian, c.KLP99, c.KLMax, c.SameTop1 = &klMean, &klSE, &median, &p99, &most, &same
}

func (c *Checkpoint) byPosition(s *scores, windows []Window) {
	nll, kl, n := make([]float64, len(positions)), make([]float64, len(positions)), make([]int, len(positions))
	last := 0
	i := 0
	for _, w := range windows {
		last = max(last, len(w.IDs))
		for p := w.From; p < len(w.IDs); p++ {
			b, found := slices.BinarySearch(positions, p)
			if !found {
				b--
			}
			nll[b] += s.nll[i]
			if s.kl != nil {
				kl[b] += s.kl[i]
			}
			n[b]++
			i++
		}
	}
	c.Positions = []Position{}
	for b, count := range n {
		if count == 0 {
			continue
		}
		p := Position{From: positions[b], To: min(positions[b+1], last), Tokens: count, Perplexity: math.Exp(nll[b] / float64(count))}
		if s.kl != nil {
			k := kl[b] / float64(count)
			p.KLMean = &k
		}
		c.Positions = append(c.Positions, p)
	}
}
