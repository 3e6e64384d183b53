package quantize

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Ahead is how far before the workers a source is read, and behind them dropped: a run of 140 GB
// leaves the page cache as it found it.
const Ahead = 8 * RangeBytes

// A Worker owns the scratch memory of one goroutine.
type Worker struct {
	room  []byte    // slab, once it is asked for
	run   []byte    // the range in the run dtype
	scale []float32 // decoded scales of a range
	abs   []float32 // scales read back
	plain []float32 // what absmax would have chosen
	bytes []byte    // scales as bytes
	dq    []byte    // double-quantized scales of a range, or codes of a chunk

	values, decoded []float32 // of a chunk
}

// NewWorker makes one. What it does not come to need it has not.
func NewWorker() *Worker { return new(Worker) }

// slab is a range of the source and its codes, when the job holds none.
func (w *Worker) slab() []byte { return grow(&w.room, slabBytes) }

// Range is scratch for the bytes of a range.
func (w *Worker) Range() []byte { return w.slab()[:RangeBytes] }

// Rounded is scratch for the same in another dtype.
func (w *Worker) Rounded() []byte { return grow(&w.run, RangeBytes) }

func grow[T any](p *[]T, n int) []T {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	return (*p)[:n]
}

// reading says how a range is read.
type reading struct {
	fill bool // into memory, where it stays
	last bool // it is not read again
}

// open reads panel task.
func (j *Job) open(w *Worker, task int, how reading) (p *Panel, src []byte, err error) {
	first := int64(task) * j.panel
	n := min(j.panel, j.n-first)
	src, run, err := j.load(w, first, n, how)
	if err != nil {
		return nil, nil, err
	}
	p = &Panel{First: first, N: int(n), Cols: j.Cols, Values: run, Elem: j.Run, Type: j.Type, BlockSize: j.BlockSize, Inputs: j.Inputs}
	if j.rows {
		p.Rows = int(n / j.Cols)
	}
	return p, src, nil
}

// fill reads a range into memory.
func (j *Job) fill(w *Worker, task int) error {
	first := int64(task) * j.step
	_, err := j.values(w, first, min(j.step, j.n-first), reading{fill: true, last: true})
	return err
}

// load gives elements [first, first+n) as they are stored and rounded to the run dtype. The second
// result is the first when the source has that dtype already.
func (j *Job) load(w *Worker, first, n int64, how reading) (src, run []byte, err error) {
	if src, err = j.values(w, first, n, how); err != nil || j.Elem == j.Run {
		return src, src, err
	}
	run = w.Rounded()[:n*int64(j.Run.Size())]
	overflow, nonFinite := kernel.Convert(run, j.Run, src, j.Elem, int(n))
	if at := firstOf(overflow, nonFinite); at >= 0 {
		return nil, nil, j.Bad(first+int64(at), valueAt(src, j.Elem, at))
	}
	return src, run, nil
}

// values are the elements as the source has them: from memory where they are held.
func (j *Job) values(w *Worker, first, n int64, how reading) ([]byte, error) {
	task := first / j.step
	if j.held && !how.fill {
		if first+n <= (task+1)*j.step {
			return j.slabs[task][(first-task*j.step)*j.size:][:n*j.size], nil
		}
		head := (task+1)*j.step - first
		src := w.slab()[:n*j.size]
		copy(src, j.slabs[task][(j.step-head)*j.size:][:head*j.size])
		copy(src[head*j.size:], j.slabs[task+1])
		return src, nil
	}
	var slab []byte
	if how.fill {
		slab = j.run.slabs.Get(slabBytes)
		j.slabs[task] = slab
	} else {
		slab = w.slab()
	}
	src := slab[:n*j.size]
	if first == 0 {
		j.Source.Prefetch(0, Ahead)
	}
	j.Source.Prefetch(first*j.size+Ahead, int64(len(src)))
	if err := stream.ReadFull(j.Source, src, first*j.size); err != nil {
		return nil, err
	}
	if how.last {
		j.Source.Drop(first*j.size, int64(len(src)))
	}
	return src, nil
}

// firstOf is the smaller of two indices, of which -1 is none.
func firstOf(a, b int) int {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

func valueAt(src []byte, e kernel.Elem, i int) float64 {
	var b [4]byte
	kernel.Convert(b[:], kernel.F32, src[i*e.Size():][:e.Size()], e, 1)
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[:])))
}

func ceilDiv(a, b int64) int { return int((a + b - 1) / b) }

func writeFull(w io.WriterAt, p []byte, off int64) error {
	_, err := w.WriteAt(p, off)
	return err
}
