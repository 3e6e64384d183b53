package calibrate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the script's function windows makes of texts of ids 0, 1, ...: the first id and the length of each window, and which are held out.
func TestWindows(t *testing.T) {
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(i)
		}
		return out
	}
	type window struct {
		First, Len int
	}
	for _, c := range []struct {
		name                 string
		lengths              []int
		tokens, size         int
		calibration, heldout []window
	}{
		{"all of a text", []int{100}, 100, 25, []window{{0, 25}, {25, 25}, {50, 25}}, []window{{75, 25}}},
		{"spread", []int{1000}, 75, 25, []window{{0, 25}, {333, 25}}, []window{{666, 25}}},
		{"the sixth", []int{80}, 80, 10, []window{{0, 10}, {10, 10}, {20, 10}, {30, 10}, {40, 10}, {60, 10}, {70, 10}}, []window{{50, 10}}},
		{"a short last one", []int{30}, 1000, 20, []window{{0, 20}}, []window{{20, 10}}},
		{"two texts", []int{40, 20}, 40, 20, []window{{0, 20}}, []window{{0, 20}}},
		{"one token is none", []int{41}, 1000, 20, []window{{0, 20}}, []window{{20, 20}}},
	} {
		var texts [][]int32
		for _, n := range c.lengths {
			texts = append(texts, ids(n))
		}
		calibration, heldout, err := Windows(texts, c.tokens, c.size)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		of := func(rows [][]int32) (out []window) {
			for _, r := range rows {
				out = append(out, window{int(r[0]), len(r)})
			}
			return out
		}
		if diff := cmp.Diff([][]window{c.calibration, c.heldout}, [][]window{of(calibration), of(heldout)}); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
	}
	if _, _, err := Windows([][]int32{ids(20)}, 1000, 20); err == nil {
		t.Error("no error of a single window")
	}
}
