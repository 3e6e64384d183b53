package measure

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

func TestFiguresOf(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		name string
		in   kernel.Sums
		want Figures
	}{
		{"nothing", kernel.Sums{}, Figures{SQNR: inf, Cosine: 1, ZeroNorm: true}},
		// w = (3, 4), v = (3, 3): e = (0, 1).
		{"two weights", kernel.Sums{N: 2, X2: 25, W2: 18, XW: 21, E2: 1, AbsE: 1, Max: 1},
			Figures{Elements: 2, RelRMSE: 0.2, SQNR: 10 * math.Log10(25), MeanAbs: 0.5, MaxAbs: 1, Cosine: 21 / math.Sqrt(25*18), RMSE: math.Sqrt(0.5)}},
		{"exact", kernel.Sums{N: 1, X2: 4, W2: 4, XW: 4}, Figures{Elements: 1, SQNR: inf, Cosine: 1}},
		{"zeros decoded to something", kernel.Sums{N: 1, W2: 4, E2: 4, AbsE: 2, Max: 2},
			Figures{Elements: 1, RelRMSE: inf, SQNR: math.Inf(-1), MeanAbs: 2, MaxAbs: 2, RMSE: 2, ZeroNorm: true}},
		{"something decoded to zeros", kernel.Sums{N: 1, X2: 4, E2: 4, AbsE: 2, Max: 2},
			Figures{Elements: 1, RelRMSE: 1, MeanAbs: 2, MaxAbs: 2, RMSE: 2}},
	} {
		if d := cmp.Diff(c.want, FiguresOf(c.in)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
