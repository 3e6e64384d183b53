package forward

import (
	"context"
	"fmt"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// panelBytes bounds what is decoded of a matrix at a time, as float32.
const panelBytes = 8 << 20

// A product is a Linear and where its matrix lies.
type product struct {
	Linear
	t      *weights.Tensor
	row    int64 // of the tensor's rows, all dimensions but the last taken together, where it begins
	across bool  // stored [in, out]

	bias   *weights.Tensor // nil: none
	biasAt int64           // element of it
}

// floats fills dst with elements of a tensor from first on. Of a weight in bitsandbytes' 4 bits they are not rounded to the
// dtype of its record: bitsandbytes decodes to the dtype of the product (backends/default/ops.py, gemm_4bit).
func (d *Decoder) floats(dst []float32, t *weights.Tensor, first int64) error {
	f := t.Floats()
	e := f.Elem()
	raw := d.raw.get(len(dst) * e.Size())
	defer d.raw.put(raw)
	if err := f.Read(raw, first); err != nil {
		return err
	}
	kernel.Widen(dst, raw, e)
	return nil
}

// buffers keeps byte slices between uses.
type buffers struct{ pool sync.Pool }

func (b *buffers) get(n int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= n {
		return (*p)[:n]
	}
	return make([]byte, n)
}

func (b *buffers) put(p []byte) { b.pool.Put(&p) }

// vector reads n elements from first on.
func (d *Decoder) vector(t *weights.Tensor, first int64, n int) ([]float32, error) {
	v := make([]float32, n)
	return v, d.floats(v, t, first)
}

// multiply writes to out [tokens, Out] the product of in [tokens, In] and the matrix, with the bias.
func (d *Decoder) multiply(ctx context.Context, p *product, out, in linalg.Matrix) error {
	if err := d.begin(p, out); err != nil {
		return err
	}
	n, length := p.Out, p.In // rows of a panel are outputs, or of a matrix that lies across inputs
	step := max(64, panelBytes/(4*length)/64*64)
	if p.across {
		n, length = length, n
		step = max(linalg.Run, panelBytes/(4*length)/linalg.Run*linalg.Run)
	}
	step = min(step, n)
	if need := step * length; cap(d.panel) < need {
		d.panel = make([]float32, need)
	}
	for r := 0; r < n; r += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(step, n-r)
		w := d.panel[:rows*length]
		if err := d.decode(w, p, r, rows, length); err != nil {
			return fmt.Errorf("decode %s: %w", p.Name, err)
		}
		m := linalg.New(w, rows, length)
		if p.across {
			linalg.MulAdd(out, in.Slice(0, in.Rows, r, r+rows), m, d.opt.Jobs)
		} else {
			linalg.MulAdd(out.Slice(0, out.Rows, r, r+rows), in, m.T(), d.opt.Jobs)
		}
	}
	return nil
}

// begin fills out with the bias.
func (d *Decoder) begin(p *product, out linalg.Matrix) error {
	var bias []float32
	if p.bias != nil {
		var err error
		if bias, err = d.vector(p.bias, p.biasAt, p.Out); err != nil {
			return err
		}
	}
	stream.Parts(out.Rows, d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			if bias != nil {
				copy(out.Row(i), bias)
			} else {
				clear(out.Row(i))
			}
		}
	})
	return nil
}

// decode fills w with rows from r on, shared among the workers.
func (d *Decoder) decode(w []float32, p *product, r, rows, length int) error {
	const least = 1 << 16 // elements for which another goroutine is worth it
	jobs := min(d.opt.Jobs, max(1, rows*length/least))
	errs := make([]error, jobs)
	part := (rows + jobs - 1) / jobs
	stream.Parts(jobs, jobs, func(j, _ int) {
		if from, to := j*part, min((j+1)*part, rows); from < to {
			errs[j] = d.floats(w[from*length:to*length], p.t, (p.row+int64(r+from))*int64(length))
		}
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
