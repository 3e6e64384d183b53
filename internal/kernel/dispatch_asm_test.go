//go:build !purego && (amd64 || arm64)

package kernel

import (
	"math"
	"testing"
)

// The assembly finds a cell with one rounding where wideCells has two, so no threshold may be near the border of two
// cells; and no cell may hold two thresholds, or one would be lost.
func TestWideCells(t *testing.T) {
	for _, typ := range []Type{NF4, FP4} {
		threshold, rank, _, _ := wideCells(&books[typ])
		found := 0
		for cell, v := range threshold {
			if math.IsInf(float64(v), 1) {
				continue
			}
			found++
			at := float64(v)*cellScale + 16
			if off := math.Abs(at - float64(cell)); off > 0.499 {
				t.Errorf("%v: threshold %v is %v off the middle of cell %d", typ, v, off, cell)
			}
		}
		want := 15
		if typ == FP4 {
			want = 13
		}
		if found != want || int(rank[31]) != want {
			t.Errorf("%v: %d thresholds in cells, rank %d at the end (want %d)", typ, found, rank[31], want)
		}
	}
}
