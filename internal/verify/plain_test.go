package verify

import (
	"math"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Only NaNs are found, behind any number of infinities, in every dtype.
func TestFirstNaN(t *testing.T) {
	inf, nan := float32(math.Inf(-1)), float32(math.NaN())
	for _, e := range []kernel.Elem{kernel.F32, kernel.F16, kernel.BF16} {
		for _, n := range []int{0, 1, 2, 63, 64, 65, 300} {
			x := make([]float32, n)
			for i := 0; i < n; i += 3 {
				x[i] = inf
			}
			b := make([]byte, n*e.Size())
			for want := n; want >= 0; want-- { // n: none
				if want < n {
					x[want] = nan
				}
				kernel.Narrow(b, e, x)
				if got := firstNaN(e, b); got != int64(want) && (want < n || got != -1) {
					t.Fatalf("%v, %d elements: found %d, want %d", e, n, got, want)
				}
			}
		}
	}
}
