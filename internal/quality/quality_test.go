package quality

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

func TestOf(t *testing.T) {
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
		if d := cmp.Diff(c.want, Of(c.in)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// tensors are two of one kind and one of another, in two formats.
var tensors = []Tensor{
	{Name: "0.q", Kind: "q", Format: "nf4,block=64,dq", Versus: "fp4,block=64,dq",
		Written: kernel.Sums{N: 4, X2: 8, W2: 8, XW: 8, E2: 2, AbsE: 2, Max: 1}, Other: kernel.Sums{N: 4, X2: 8, W2: 8, XW: 7, E2: 4, AbsE: 3, Max: 2}},
	{Name: "0.up", Kind: "up", Format: "nf4,block=32,dq", Versus: "fp4,block=32,dq",
		Written: kernel.Sums{N: 10, X2: 20, W2: 20, XW: 20}, Other: kernel.Sums{N: 10, X2: 20, W2: 20, XW: 20}},
	{Name: "1.q", Kind: "q", Format: "nf4,block=64,dq", Versus: "fp4,block=64,dq", ReadTwice: true,
		Written: kernel.Sums{N: 4, X2: 8, W2: 8, XW: 8, E2: 6, AbsE: 4, Max: 3}, Other: kernel.Sums{N: 4, X2: 8, W2: 8, XW: 7, E2: 8, AbsE: 5, Max: 4}},
}

func TestSummarize(t *testing.T) {
	s := Summarize(tensors)
	if s.Format != "" || s.Versus != "" {
		t.Errorf("tensors of two formats have the format %q against %q", s.Format, s.Versus)
	}
	if one := Summarize(tensors[:1]); one.Format != "nf4,block=64,dq" || one.Versus != "fp4,block=64,dq" {
		t.Errorf("one tensor: format %q against %q", one.Format, one.Versus)
	}
	var kinds []string
	for _, k := range s.Kinds {
		kinds = append(kinds, k.Name)
	}
	if d := cmp.Diff([]string{"up", "q"}, kinds); d != "" {
		t.Errorf("kinds by weights (-want +got):\n%s", d)
	}
	q := s.Kinds[1]
	want := Of(kernel.Sums{N: 8, X2: 16, W2: 16, XW: 16, E2: 8, AbsE: 6, Max: 3})
	if d := cmp.Diff(want, q.Written); d != "" || q.Tensors != 2 {
		t.Errorf("kind q of %d tensors (-want +got):\n%s", q.Tensors, d)
	}
	if s.Total.Tensors != 3 || s.Total.Written.Elements != 18 || s.Total.Other.MaxAbs != 4 {
		t.Errorf("total %+v", s.Total)
	}
}

func TestReportJSON(t *testing.T) {
	var b bytes.Buffer
	if err := NewReport("nf4kit test", "src", "bfloat16", tensors).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema  string
		Tensors []struct {
			Name    string
			Written map[string]*float64
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != Schema || len(got.Tensors) != 3 {
		t.Fatalf("schema %q, %d tensors", got.Schema, len(got.Tensors))
	}
	// JSON has no infinity: an exact tensor has no SQNR.
	if w := got.Tensors[1].Written; w["sqnr_db"] != nil || w["relative_rmse"] == nil || *w["relative_rmse"] != 0 {
		t.Errorf("exact tensor: %v", w)
	}
	if w := got.Tensors[0].Written; w["relative_rmse"] == nil || *w["relative_rmse"] != 0.5 {
		t.Errorf("relative RMSE of 0.q: %v; want 0.5", w["relative_rmse"])
	}
}

func TestReportCSV(t *testing.T) {
	var b bytes.Buffer
	if err := NewReport("nf4kit test", "src", "bfloat16", tensors).WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"1.q", "q", "4", "nf4,block=64,dq", "fp4,block=64,dq", "true"}
	if len(rows) != 4 || len(rows[0]) != 18 {
		t.Fatalf("%d rows of %d columns", len(rows), len(rows[0]))
	}
	if d := cmp.Diff(want, rows[3][:6]); d != "" {
		t.Errorf("last row (-want +got):\n%s", d)
	}
	if rows[2][7] != "" {
		t.Errorf("SQNR of an exact tensor is %q; want it empty", rows[2][7])
	}
}
