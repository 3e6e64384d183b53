package lora

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/nf4kit/nf4kit/safetensors"
)

const fitName = "model.layers.0.q_proj.weight"

// product64 is s B A of a fitted module.
func product64(x *fitted, s float64) *mat.Dense {
	m, n, r := int(x.w.Shape[0]), int(x.w.Shape[1]), int(x.rank)
	a, b := mat.NewDense(r, n, nil), mat.NewDense(m, r, nil)
	for i, v := range x.a {
		a.Set(i/n, i%n, float64(v))
	}
	for i, v := range x.b {
		b.Set(i/r, i%r, s*float64(v))
	}
	var out mat.Dense
	out.Mul(b, a)
	return &out
}

func fittedOf(t *testing.T, m, n int64, opt FitOptions) (*fitted, *mat.Dense) {
	t.Helper()
	w := testBase(map[string][]int64{fitName: {m, n}}, safetensors.F32)[0]
	x := &fitted{w: w, opt: &opt, path: "q_proj", rank: min(opt.Rank, m, n)}
	if err := x.solve(t.Context()); err != nil {
		t.Fatal(err)
	}
	dense := mat.NewDense(int(m), int(n), nil)
	for i, v := range readAll(t, &w) {
		dense.Set(i/int(n), i%int(n), float64(v))
	}
	return x, dense
}

// gramOf is that of random inputs of which some directions are much larger than others, and the first column is never there.
func gramOf(n int64) []float32 {
	r := rand.New(rand.NewPCG(7, 7))
	k := int(n)
	g := make([]float32, n*n)
	for range 3 * k {
		v, common := make([]float64, k), 5*r.NormFloat64()
		for i := 1; i < k; i++ {
			v[i] = r.NormFloat64()/float64(i) + common*math.Sin(float64(i))
		}
		for i := range k {
			for j := range k {
				g[i*k+j] += float32(v[i] * v[j] / float64(3*k))
			}
		}
	}
	return g
}

// The error of the outputs is the least of the rank, by the full decomposition of E L, and so are the figures.
func TestFitByGram(t *testing.T) {
	for _, c := range []struct{ m, n, rank int64 }{{40, 30, 5}, {30, 41, 7}, {9, 30, 64}, {33, 2, 1}} {
		g := gramOf(c.n)
		x, w := fittedOf(t, c.m, c.n, FitOptions{Rank: c.rank, Alpha: 3, Iterations: 12, Jobs: 2, Gram: func(string, int64) ([]float32, error) { return g, nil },
			Moments: func(string, int64) ([]float32, error) { t.Error("moments of a known Gram matrix"); return nil, nil }})
		l, err := factorOf(g, int(c.n), 1)
		if err != nil {
			t.Fatal(err)
		}
		lower := mat.NewDense(int(c.n), int(c.n), nil)
		for i := range int(c.n) {
			for j := range int(c.n) {
				lower.Set(i, j, float64(l.At(i, j)))
			}
		}
		var e, whole, left mat.Dense
		e.Sub(w, product64(x, 3/float64(c.rank)))
		whole.Mul(w, lower)
		left.Mul(&e, lower)
		var svd mat.SVD
		if !svd.Factorize(&whole, mat.SVDNone) {
			t.Fatal("no singular values")
		}
		var best float64
		for _, s := range svd.Values(nil)[min(int(c.rank), int(min(c.m, c.n))):] {
			best += s * s
		}
		norm := mat.Norm(&whole, 2)
		got := mat.Norm(&left, 2) / norm
		if want := math.Sqrt(best) / norm; got > 1.01*want+1e-4 || math.Abs(x.fit.After-got) > 1e-3 || math.Abs(x.fit.Before-1) > 1e-5 {
			t.Errorf("%v: %.6f is left of the outputs, and said to be %.6f of %.6f; the least is %.6f", c, got, x.fit.After, x.fit.Before, want)
		}
	}
}

// A Gram matrix that is none is named, and one of zeros says nothing.
func TestFactorOf(t *testing.T) {
	if l, err := factorOf(make([]float32, 9), 3, 1); l != nil || err != nil {
		t.Errorf("zeros: %v, %v", l, err)
	}
	if _, err := factorOf([]float32{1, 5, 5, 1}, 2, 1); err == nil {
		t.Error("an indefinite matrix has a factor")
	}
}

// B has orthonormal columns that span the first ones of W, and B A is the projection of W on them.
func TestOLoRA(t *testing.T) {
	for _, c := range []struct{ m, n, rank int64 }{{40, 30, 5}, {30, 41, 7}, {5, 30, 64}} {
		x, w := fittedOf(t, c.m, c.n, FitOptions{Rank: c.rank, Alpha: 2, OLoRA: true})
		var qr mat.QR
		qr.Factorize(mat.DenseCopyOf(w.Slice(0, int(c.m), 0, int(x.rank))))
		var full, part, want, d mat.Dense
		qr.QTo(&full)
		q := full.Slice(0, int(c.m), 0, int(x.rank))
		part.Mul(q.T(), w)
		want.Mul(q, &part)
		d.Sub(&want, product64(x, 1))
		if off := mat.Norm(&d, 2) / mat.Norm(&want, 2); off > 1e-6 {
			t.Errorf("%v: %.2g off", c, off)
		}
		var left mat.Dense
		left.Sub(w, &want)
		if after := mat.Norm(&left, 2) / mat.Norm(w, 2); math.Abs(after-x.fit.After) > 1e-3 {
			t.Errorf("%v: %v is left, said to be %v", c, after, x.fit.After)
		}
	}
}
