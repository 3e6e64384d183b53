package feedback

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/search"
)

// layer is random rows of weights with correlated inputs, some of them much larger than others and one dead.
type layer struct {
	n, rows       int
	gram, heldout []float32
	x, scales     []float32
}

const blockSize = 64

func newLayer(seed uint64, n, rows int) *layer {
	r := rand.New(rand.NewPCG(seed, 2))
	l := &layer{n: n, rows: rows, x: make([]float32, n*rows)}
	// Inputs are mixtures of few sources, and noise.
	mix := make([]float32, n*(n/4+1))
	for i := range mix {
		mix[i] = float32(r.NormFloat64())
	}
	size := make([]float32, n)
	for i := range size {
		size[i] = float32(math.Exp(r.NormFloat64()))
	}
	if n > 4 {
		size[3] = 0
	}
	gram := func(tokens int) []float32 {
		k := n/4 + 1
		in := make([]float32, tokens*n)
		for t := range tokens {
			src := make([]float64, k)
			for i := range src {
				src[i] = r.NormFloat64() * math.Exp2(-6*float64(i)/float64(k))
			}
			for c := range n {
				v := 0.3 * r.NormFloat64()
				for i, s := range src {
					v += float64(mix[c*k+i]) * s
				}
				in[t*n+c] = float32(v) * size[c]
			}
		}
		g := make([]float32, n*n)
		m := linalg.New(in, tokens, n)
		linalg.MulAdd(linalg.New(g, n, n), m.T(), m, 1)
		for i := range g {
			g[i] /= float32(tokens)
		}
		return g
	}
	l.gram, l.heldout = gram(4*n+10), gram(n+10)
	for i := range l.x {
		l.x[i] = float32(r.NormFloat64()) * 0.02
	}
	moments := make([]float32, n)
	for i := range moments {
		moments[i] = l.gram[i*n+i]
	}
	w, err := search.NewWeights(moments)
	if err != nil {
		panic(err)
	}
	l.scales = make([]float32, (len(l.x)+blockSize-1)/blockSize)
	search.New(search.Method{Type: kernel.NF4, BlockSize: blockSize, Signed: true}).Scales(l.scales, l.x, 0, w)
	return l
}

func (l *layer) quantize(t *testing.T, damping float64, jobs int) []byte {
	t.Helper()
	f, err := NewFactor(l.gram, l.n, damping, jobs)
	if err != nil {
		t.Fatal(err)
	}
	codes := make([]byte, (len(l.x)+1)/2)
	f.Quantize(kernel.NF4, codes, l.x, l.scales, blockSize)
	return codes
}

func (l *layer) decode(codes []byte) []float32 {
	v := make([]float32, len(l.x))
	kernel.DequantizeF32(kernel.NF4, v, codes, l.scales, blockSize)
	return v
}

func (l *layer) nearest() []byte {
	codes, src := make([]byte, (len(l.x)+1)/2), make([]byte, 4*len(l.x))
	kernel.Narrow(src, kernel.F32, l.x)
	kernel.Codes(kernel.NF4, kernel.F32, codes, l.scales, src, blockSize)
	return codes
}

// gptq is the algorithm as its paper has it, in float64: after each column the columns that follow are corrected by means
// of the Cholesky factor of the inverse.
func gptq(l *layer, damping float64) []float32 {
	n := l.n
	order := descending(l.gram, n)
	var mean float64
	for i := range n {
		mean += float64(l.gram[i*n+i]) / float64(n)
	}
	h := make([][]float64, n)
	for i := range h {
		h[i] = make([]float64, 2*n)
		for j := range n {
			h[i][j] = float64(l.gram[int(order[i])*n+int(order[j])])
		}
		h[i][i] += damping*mean + shrink*h[i][i]
		h[i][n+i] = 1
	}
	for p := range n { // Gauss-Jordan
		d := h[p][p]
		for j := range h[p] {
			h[p][j] /= d
		}
		for i := range n {
			if f := h[i][p]; i != p && f != 0 {
				for j := range h[i] {
					h[i][j] -= f * h[p][j]
				}
			}
		}
	}
	u := make([][]float64, n) // upper: inverse = u' u
	for i := range n {
		u[i] = make([]float64, n)
		for j := i; j < n; j++ {
			sum := h[i][n+j]
			for k := range i {
				sum -= u[k][i] * u[k][j]
			}
			if i == j {
				u[i][i] = math.Sqrt(sum)
			} else {
				u[i][j] = sum / u[i][i]
			}
		}
	}
	values := kernel.Values(kernel.NF4)
	v := make([]float32, len(l.x))
	for r := range l.rows {
		w := make([]float64, n)
		for k, c := range order {
			w[k] = float64(l.x[r*n+int(c)])
		}
		for k, c := range order {
			e := r*n + int(c)
			best := math.Inf(1)
			for _, q := range values {
				if d := math.Abs(w[k] - float64(q*l.scales[e/blockSize])); d < best {
					best, v[e] = d, q*l.scales[e/blockSize]
				}
			}
			lost := (w[k] - float64(v[e])) / u[k][k]
			for j := k + 1; j < n; j++ {
				w[j] -= lost * u[k][j]
			}
		}
	}
	return v
}

// The values are those of the algorithm as published, but for what its many roundings can turn around.
func TestAgainstGPTQ(t *testing.T) {
	for _, c := range []struct{ n, rows int }{{1, 3}, {7, 5}, {48, 17}, {49, 16}, {100, 9}, {160, 33}} {
		l := newLayer(uint64(c.n), c.n, c.rows)
		want, got := gptq(l, .05), l.decode(l.quantize(t, .05, 1))
		other := 0
		for i := range want {
			if want[i] != got[i] {
				other++
			}
		}
		if other > len(want)/50 {
			t.Errorf("%+v: %d of %d values differ", c, other, len(want))
		}
		a, b := OutputErrors(l.gram, c.n, l.x, 1, want)[0], OutputErrors(l.gram, c.n, l.x, 1, got)[0]
		if math.Abs(a-b) > 0.02*a {
			t.Errorf("%+v: output error %.6g (want %.6g)", c, b, a)
		}
	}
}

func TestFeedbackHelps(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	l := newLayer(1, 192, 40)
	plain := OutputErrors(l.heldout, l.n, l.x, 1, l.decode(l.nearest()))[0]
	for _, d := range Dampings {
		e := OutputErrors(l.heldout, l.n, l.x, 1, l.decode(l.quantize(t, d, 1)))[0]
		t.Logf("damping %g: held-out output error %.3f of that without feedback", d, e/plain)
		if e > 0.8*plain {
			t.Errorf("damping %g: held-out output error %.4g, without feedback %.4g", d, e, plain)
		}
	}
	fs := NewFactors(l.n)
	f, damping, err := fs.Choose(l.gram, &Trial{kernel.NF4, blockSize, l.x, l.scales, l.heldout}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if made := len(fs.trial) - count(fs.trial, nil); made > 3 {
		t.Errorf("%d dampings tried to choose one, want at most 3", made)
	}
	codes := make([]byte, len(l.x)/2)
	f.Quantize(kernel.NF4, codes, l.x, l.scales, blockSize)
	chosen := OutputErrors(l.heldout, l.n, l.x, 1, l.decode(codes))[0]
	for _, d := range Dampings {
		if e := OutputErrors(l.heldout, l.n, l.x, 1, l.decode(l.quantize(t, d, 1)))[0]; e < chosen {
			t.Errorf("damping %g chosen with error %.4g; %g has %.4g", damping, chosen, d, e)
		}
	}
}

// Of many columns a damping is chosen on half, and the factor is of all; what is left is near the least that any damping leaves.
func TestChooseOnHalf(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	l := newLayer(2, 512, 24)
	fs := NewFactors(l.n)
	left := func(f *Factor) float64 {
		codes := make([]byte, len(l.x)/2)
		f.Quantize(kernel.NF4, codes, l.x, l.scales, blockSize)
		return OutputErrors(l.heldout, l.n, l.x, 1, l.decode(codes))[0]
	}
	trial := &Trial{kernel.NF4, blockSize, l.x, l.scales, l.heldout}
	f, damping, err := fs.Choose(l.gram, trial, 1)
	if err != nil || f.columns != l.n || f.damping != damping || fs.trial[1].columns != l.n/2 {
		t.Fatalf("factor of %d columns with damping %v, error %v", f.columns, damping, err)
	}
	again, _, err := fs.Choose(l.gram, trial, 1) // another weight of the same inputs
	if err != nil || &again.pivots[0] != &f.pivots[0] {
		t.Errorf("another factor for the same damping, error %v", err)
	}
	chosen := left(f)
	for _, d := range Dampings {
		other, err := NewFactor(l.gram, l.n, d, 1)
		if err != nil {
			t.Fatal(err)
		}
		if e := left(other); e < 0.97*chosen {
			t.Errorf("damping %g chosen with error %.4g; %g has %.4g", damping, chosen, d, e)
		}
	}
	// Half of a trial has of two neighbours the one with larger inputs, with the scale of its block.
	columns, factor := largest(l.gram, l.n, 2)
	thin := trial.thin(l.n, 2, columns)
	for _, at := range []int{0, 1, 255, 256, len(thin.X) - 1} {
		from := at/256*l.n + columns[at%256]
		if thin.X[at] != l.x[from] || thin.Scales[at/thin.BlockSize] != l.scales[from/blockSize] {
			t.Errorf("element %d of half a trial is not element %d with its scale", at, from)
		}
	}
	var all, larger float64
	for i, c := range columns {
		a, b := l.gram[2*i*(l.n+1)], l.gram[(2*i+1)*(l.n+1)]
		if c != 2*i && c != 2*i+1 || l.gram[c*(l.n+1)] != max(a, b) {
			t.Errorf("of columns %d and %d, column %d was chosen", 2*i, 2*i+1, c)
		}
		all, larger = all+float64(a)+float64(b), larger+2*float64(max(a, b))
	}
	if math.Abs(factor-all/larger) > 1e-9 {
		t.Errorf("dampings of half of the columns times %v, want %v", factor, all/larger)
	}
	if g := square(l.gram, l.n, columns); len(g) != l.n*l.n/4 || g[3*256+5] != l.gram[columns[3]*l.n+columns[5]] {
		t.Error("half of the rows and columns: another matrix")
	}
}

func count[T comparable](list []T, v T) (n int) {
	for _, x := range list {
		if x == v {
			n++
		}
	}
	return n
}

// A damping is passed over where the matrix is not positive definite with it, and the error of all is told.
func TestChooseDefinite(t *testing.T) {
	for _, c := range []struct {
		correlation float32
		want        float64 // 0: an error
	}{{1.05, .03}, {1.1, .1}, {1.2, .3}, {1.5, 0}} {
		gram := []float32{1, c.correlation, c.correlation, 1}
		_, damping, err := NewFactors(2).Choose(gram, &Trial{kernel.NF4, blockSize, []float32{.5, -.7, .3, .1}, []float32{1}, []float32{1, 0, 0, 1}}, 1)
		if (err != nil) != (c.want == 0) || damping < c.want {
			t.Errorf("correlation %v: damping %v, error %v; want %v or more", c.correlation, damping, err, c.want)
		}
	}
}

// Where rows are cut, which kernel runs and how many workers factor makes no difference.
func TestSame(t *testing.T) {
	l := newLayer(1, 192, 40) // 192 columns: a row is 3 blocks
	want := l.quantize(t, .1, 1)
	for _, impl := range kernel.List() {
		restore, err := kernel.Select(impl)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.quantize(t, .1, 3); !slices.Equal(want, got) {
			t.Errorf("%s: other codes", impl)
		}
		restore()
	}
	f, err := NewFactor(l.gram, l.n, .1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range []int{1, 7, 16, 39} {
		got := make([]byte, len(want))
		for r := 0; r < l.rows; r += rows {
			lo, hi := r*l.n, min(r+rows, l.rows)*l.n
			f.Quantize(kernel.NF4, got[lo/2:hi/2], l.x[lo:hi], l.scales[lo/blockSize:hi/blockSize], blockSize)
		}
		if !slices.Equal(want, got) {
			t.Errorf("%d rows at a time: other codes", rows)
		}
	}
}

// Rows that do not end with a block or a byte.
func TestOddColumns(t *testing.T) {
	l := newLayer(5, 37, 3)
	codes := l.quantize(t, .1, 1)
	if got := codes[len(codes)-1] & 15; got != 7 {
		t.Errorf("the missing nibble is %d (want 7)", got)
	}
	e, plain := OutputErrors(l.gram, l.n, l.x, 1, l.decode(codes))[0], OutputErrors(l.gram, l.n, l.x, 1, l.decode(l.nearest()))[0]
	if e > plain {
		t.Errorf("output error %.4g, without feedback %.4g", e, plain)
	}
}

func TestBadGram(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		gram     []float32
		row, col int
	}{
		"NaN":           {[]float32{1, 0, 0, nan}, 1, 1},
		"infinity":      {[]float32{1, inf, inf, 2}, 1, 0},
		"negative":      {[]float32{-1, 0, 0, 1}, 0, 0},
		"not symmetric": {[]float32{1, 0.5, 0, 1}, 1, 0},
		"too large":     {[]float32{1, 3, 3, 1}, 1, 0},
	} {
		var e *GramError
		if err := Check(c.gram, 2); !errors.As(err, &e) || e.Row != c.row || e.Col != c.col {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := Check([]float32{1, 0.5, 0.5, 1}, 2); err != nil {
		t.Error(err)
	}
	if Check(make([]float32, 5), 2) == nil {
		t.Error("5 elements for 2 x 2: no error")
	}
	if _, err := NewFactor(make([]float32, 4), 2, .1, 1); err == nil {
		t.Error("zeros: no error")
	}
	// A rank of 1 in 3 columns, and a pair beyond what any inputs have.
	if _, err := NewFactor([]float32{1, -.9, -.9, -.9, 1, -.9, -.9, -.9, 1}, 3, .1, 1); err == nil {
		t.Error("not positive definite: no error")
	}
}

func BenchmarkQuantize(b *testing.B) {
	l := newLayer(1, 576, 256)
	f, err := NewFactor(l.gram, l.n, .1, 1)
	if err != nil {
		b.Fatal(err)
	}
	codes := make([]byte, len(l.x)/2)
	for b.Loop() {
		f.Quantize(kernel.NF4, codes, l.x, l.scales, blockSize)
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(len(l.x)), "ns/weight")
}

// A sweep never raises the error that it goes by, lowers it where codes have room, and gives the same codes wherever rows are cut
// and whatever kernel runs.
func TestRefine(t *testing.T) {
	const damping = .1
	for _, c := range []struct{ n, rows int }{{1, 3}, {7, 5}, {48, 17}, {97, 16}, {160, 33}} {
		l := newLayer(uint64(c.n), c.n, c.rows)
		f, err := NewFactor(l.gram, c.n, damping, 1)
		if err != nil {
			t.Fatal(err)
		}
		before := l.quantize(t, damping, 1)
		f.Refine(l.gram, 2)
		quantize := func(lo, hi int) []byte {
			codes := make([]byte, (hi-lo+1)/2)
			f.Quantize(kernel.NF4, codes, l.x[lo:hi], l.scales[lo/blockSize:(hi+blockSize-1)/blockSize], blockSize)
			return codes
		}
		after := quantize(0, len(l.x))
		damped := slices.Clone(l.gram)
		for i := range c.n {
			damped[i*c.n+i] += float32(damping/f.unit) + shrink*damped[i*c.n+i]
		}
		a, b := OutputErrors(damped, c.n, l.x, 1, l.decode(before))[0], OutputErrors(damped, c.n, l.x, 1, l.decode(after))[0]
		t.Logf("%+v: %.3f of the error without", c, b/a)
		if b > a*(1+1e-5) || c.n > 40 && b > 0.99*a {
			t.Errorf("%+v: error %.6g after a sweep, %.6g before", c, b, a)
		}
		for _, impl := range kernel.List() {
			restore, err := kernel.Select(impl)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(after, quantize(0, len(l.x))) {
				t.Errorf("%+v: %s gives other codes", c, impl)
			}
			restore()
		}
		for _, jobs := range []int{0, 1, 2, 5} {
			codes := make([]byte, len(after))
			if f.QuantizeOn(jobs, kernel.NF4, codes, l.x, l.scales, blockSize); !slices.Equal(after, codes) {
				t.Errorf("%+v: other codes with %d jobs", c, jobs)
			}
		}
		if c.n%blockSize == 0 || c.n == 160 { // two rows are whole blocks
			for lo := 0; lo < len(l.x); lo += 2 * c.n {
				hi := min(lo+2*c.n, len(l.x))
				if got := quantize(lo, hi); !slices.Equal(after[lo/2:(hi+1)/2], got) {
					t.Errorf("%+v: other codes for elements %d to %d alone", c, lo, hi)
				}
			}
		}
	}
}
