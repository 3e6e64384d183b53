package quantize

import "github.com/nf4kit/nf4kit/internal/stream"

// second is the pass over panels once the scales are what a loader decodes. An exclusive method has its turn for it.
func (j *Job) second(each stream.Each[*Worker], panels int) error {
	defer j.Leave()
	if j.before != nil {
		<-j.before
	}
	if m, ok := j.Method.(Preparer); ok {
		defer m.Release()
		if err := each(1, func(w *Worker, _ int) error { return j.prepare(w, m) }); err != nil {
			return err
		}
	}
	if j.needs.Passes == 1 {
		return nil
	}
	return each(panels, j.codes)
}

// Leave ends the turn of an exclusive job, also of one that is not quantized because something failed before.
func (j *Job) Leave() {
	if j.after != nil {
		close(j.after)
		j.after = nil
	}
}

// prepare lets a method read what it wants to.
func (j *Job) prepare(w *Worker, m Preparer) error {
	return m.Prepare(j.Weight, func(first int64, n int) (*Panel, []float32, error) {
		_, run, err := j.load(w, first, int64(n), reading{})
		if err != nil {
			return nil, nil, err
		}
		scale, err := j.scales.decoded(w, first/int64(j.BlockSize), ceilDiv(int64(n), int64(j.BlockSize)))
		p := &Panel{First: first, N: n, Cols: j.Cols, Values: run, Elem: j.Run, Type: j.Type, BlockSize: j.BlockSize, Inputs: j.Inputs}
		return p, scale, err
	}, max(1, j.run.Jobs))
}
