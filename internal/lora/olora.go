package lora

import (
	"context"
	"math"

	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"

	"github.com/nf4kit/nf4kit/internal/linalg"
)

// qr finds the factors of OLoRA: B = Q[:, :r] and A = R[:r] of W = Q R (PEFT, LoraLayer.olora_init). Those depend on the first r
// columns of W alone: Q of these is B, and A = B' W. The weight is read three times.
func (x *fitted) qr(ctx context.Context) error {
	w := difference(&x.w, nil, nil)
	m, n, r := w.m, w.n, int(x.rank)
	panel := make([]float32, w.panel())
	first := blas64.General{Rows: m, Cols: r, Stride: r, Data: make([]float64, m*r)}
	if err := w.panels(ctx, panel, func(row, rows int) {
		for i := range rows {
			for k, v := range panel[i*n:][:r] {
				first.Data[(row+i)*r+k] = float64(v)
			}
		}
	}); err != nil {
		return err
	}
	qOf(first)
	x.b = make([]float32, m*r)
	for i, v := range first.Data {
		x.b[i] = float32(v)
	}
	x.a = make([]float32, r*n)
	// a' = W' B
	at := linalg.New(make([]float32, n*r), n, r)
	if err := w.transposedTimes(ctx, at, linalg.New(x.b, m, r), panel, x.opt.Jobs); err != nil {
		return err
	}
	var kept float64
	for k := range r {
		for j := range n {
			v := at.At(j, k)
			x.a[k*n+j] = v
			kept += float64(v) * float64(v) // the columns of B are orthonormal
		}
	}
	ww, err := w.squares(ctx, panel, x.opt.Jobs)
	if err != nil {
		return err
	}
	x.fit = Fit{Module: x.path, Tensor: x.w.Name, Rank: x.rank, Before: 1}
	if ww > 0 {
		x.fit.Energy = min(1, kept/ww)
		x.fit.After = math.Sqrt(max(0, 1-x.fit.Energy))
	}
	return nil
}

// qOf replaces a, of at least as many rows as columns, by Q of its QR decomposition.
func qOf(a blas64.General) {
	tau, size := make([]float64, a.Cols), []float64{0}
	lapack64.Geqrf(a, tau, size, -1)
	work := make([]float64, int(size[0]))
	lapack64.Geqrf(a, tau, work, len(work))
	lapack64.Orgqr(a, tau, size, -1)
	work = make([]float64, int(size[0]))
	lapack64.Orgqr(a, tau, work, len(work))
}
