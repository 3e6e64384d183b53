package stream

import (
	"sync/atomic"
	"testing"
)

// Every index is in one part, whatever their number.
func TestParts(t *testing.T) {
	for n := range 20 {
		for jobs := range 25 {
			seen := make([]atomic.Int32, n)
			Parts(n, jobs, func(from, to int) {
				for i := from; i < to; i++ {
					seen[i].Add(1)
				}
			})
			for i := range seen {
				if got := seen[i].Load(); got != 1 {
					t.Errorf("%d of %d by %d jobs: in %d parts", i, n, jobs, got)
				}
			}
		}
	}
}
