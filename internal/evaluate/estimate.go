package evaluate

import (
	"context"
	"fmt"
	"time"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// The lengths of the two sequences that a layer is timed with: what it takes beside them is the decoding of the weights.
const (
	estimateShort = 16
	estimateLong  = 128
)

// Estimate is how long Run would take, from the first layer and the head of each checkpoint for a few tokens.
func Estimate(ctx context.Context, models []Model, windows []Window, jobs int) (time.Duration, error) {
	ids := windows[0].IDs
	for _, w := range windows {
		if len(w.IDs) > len(ids) {
			ids = w.IDs
		}
	}
	var total time.Duration
	for i := range models {
		m := &models[i]
		once := func(n int) (layer, head time.Duration, err error) {
			n = min(n, len(ids))
			s, err := m.Start(ctx, [][]int32{ids[:n]})
			if err != nil {
				return 0, 0, err
			}
			defer s.Close()
			start := time.Now()
			if err := m.Layer(ctx, 0, s, nil); err != nil {
				return 0, 0, err
			}
			layer = time.Since(start)
			x := make([]float32, n*m.Width())
			if err := s.Read(x, 0); err != nil {
				return 0, 0, err
			}
			start = time.Now()
			logits := linalg.New(make([]float32, n*m.Vocab()), n, m.Vocab())
			if err := m.Head(ctx, logits, linalg.New(x, n, m.Width())); err != nil {
				return 0, 0, err
			}
			stream.Parts(n, jobs, func(from, to int) {
				for row := from; row < to; row++ {
					logSumExp(logits.Row(row))
					logSumExp(logits.Row(row)) // the divergence takes as much
				}
			})
			return layer, time.Since(start), nil
		}
		if _, _, err := once(estimateShort); err != nil { // brings the weights into memory
			return 0, fmt.Errorf("%s: %w", m.Path, err)
		}
		layer1, head1, err := once(estimateShort)
		if err != nil {
			return 0, err
		}
		layer2, head2, err := once(estimateLong)
		if err != nil {
			return 0, err
		}
		n1, n2 := min(estimateShort, len(ids)), min(estimateLong, len(ids))
		total += time.Duration(m.Layers()) * line(n1, n2, layer1, layer2, Tokens(windows))
		total += line(n1, n2, head1, head2, Scored(windows))
	}
	return total, nil
}

// line is the time of n tokens on the line through those of n1 and n2.
func line(n1, n2 int, t1, t2 time.Duration, n int) time.Duration {
	if n2 <= n1 || t2 <= t1 {
		return time.Duration(float64(t2) * float64(n) / float64(n2))
	}
	each := float64(t2-t1) / float64(n2-n1)
	return time.Duration(max(0, float64(t1)-each*float64(n1)) + each*float64(n))
}
