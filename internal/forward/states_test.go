package forward

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What was written is read again, from memory and from a file, by pieces and across them.
func TestStates(t *testing.T) {
	const width = 7
	sequences := [][]int32{make([]int32, 5), {}, make([]int32, 40_000)}
	for _, budget := range []int64{1 << 30, 1} {
		s, err := newStates(sequences, width, Options{MaxMemory: budget, Scratch: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if inFile := s.file != nil; inFile != (budget == 1) {
			t.Fatalf("budget %d: in a file: %v", budget, inFile)
		}
		if first, end := s.Sequence(2); first != 5 || end != s.Rows() || s.Sequences() != 3 {
			t.Fatalf("rows %d to %d of %d", first, end, s.Rows())
		}
		want := make([]float32, s.Rows()*width)
		for i := range want {
			want[i] = float32(i)
		}
		if err := s.write(want, 0); err != nil {
			t.Fatal(err)
		}
		want[3*width] = -1
		if err := s.write(want[3*width:4*width], 3); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(want)-2*width)
		if err := s.Read(got, 2); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[2*width:], got); diff != "" {
			t.Errorf("budget %d (-written +read):\n%s", budget, diff)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
