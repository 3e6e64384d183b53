package evaluate

import (
	"context"
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// A Model is a checkpoint with its decoder.
type Model struct {
	Path string
	*forward.Decoder
}

// Options of a run. No figure depends on Jobs.
type Options struct {
	Jobs      int
	MaxMemory int64 // for logits and samples; what the decoders hold is theirs
	// Progress is told of work that is done: n of Work.
	Progress func(what string, n int64)
}

// Same checks that checkpoints are of one model: as many layers, with the same Linears, and the same vocabulary.
func Same(models []Model) error {
	src := &models[0]
	for i := range models[1:] {
		m := &models[i+1]
		expected, found := fmt.Sprintf("%d layers and %d tokens", src.Layers(), src.Vocab()), fmt.Sprintf("%d and %d", m.Layers(), m.Vocab())
		same := src.Layers() == m.Layers() && src.Vocab() == m.Vocab()
		for l := 0; same && l < src.Layers(); l++ {
			a, b := src.Linears(l), m.Linears(l)
			same = len(a) == len(b)
			for k := 0; same && k < len(a); k++ {
				if same = a[k].Out == b[k].Out && a[k].In == b[k].In; !same {
					expected, found = fmt.Sprintf("%s of %d x %d", a[k].Name, a[k].Out, a[k].In), fmt.Sprintf("%d x %d", b[k].Out, b[k].In)
				}
			}
		}
		if !same {
			return &checkpoint.InputError{File: m.Path, Expected: fmt.Sprintf("the model of %s: %s", src.Path, expected), Found: found,
				Hint: "a checkpoint can be compared with the one that it was made from"}
		}
	}
	return nil
}

// work is how many multiplications a layer of one model, and its head, take for a token.
func work(m *Model) (layer []int64, head int64) {
	for l := range m.Layers() {
		var n int64
		for _, x := range m.Linears(l) {
			n += int64(x.Out) * int64(x.In)
		}
		layer = append(layer, n)
	}
	return layer, int64(m.Vocab()) * int64(m.Width())
}

// Work is how much there is to do, in the units of Options.Progress.
func Work(models []Model, windows []Window) (n int64) {
	for i := range models {
		layers, head := work(&models[i])
		for _, l := range layers {
			n += l * int64(Tokens(windows))
		}
		n += head * int64(Scored(windows))
	}
	return n
}

// Run evaluates checkpoints of one model, the first of which is the source that the others are compared with.
func Run(ctx context.Context, models []Model, windows []Window, opt Options) (*Result, error) {
	if err := Same(models); err != nil {
		return nil, err
	}
	if opt.Progress == nil {
		opt.Progress = func(string, int64) {}
	}
	r := &run{ctx: ctx, models: models, windows: windows, opt: opt, out: make([]Checkpoint, len(models))}
	defer r.close()
	sequences := make([][]int32, len(windows))
	for i, w := range windows {
		sequences[i] = w.IDs
	}
	for i := range models {
		r.out[i].Path = models[i].Path
		s, err := models[i].Start(ctx, sequences)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", models[i].Path, err)
		}
		r.states = append(r.states, s)
	}
	for layer := range models[0].Layers() {
		if err := r.layer(layer); err != nil {
			return nil, err
		}
	}
	if err := r.heads(); err != nil {
		return nil, err
	}
	return &Result{Scored: Scored(windows), Windows: len(windows), Checkpoints: r.out}, nil
}

type run struct {
	ctx     context.Context
	models  []Model
	windows []Window
	opt     Options
	states  []*forward.States
	out     []Checkpoint
}

func (r *run) close() {
	for _, s := range r.states {
		s.Close()
	}
}

// layer takes all checkpoints through a layer.
func (r *run) layer(layer int) error {
	done := func(i int) {
		layers, _ := work(&r.models[i])
		r.opt.Progress(fmt.Sprintf("layer %d of %s", layer, r.models[i].Path), layers[layer]*int64(Tokens(r.windows)))
	}
	var sample *sample
	var hook forward.Hook
	if len(r.models) > 1 {
		sample = newSample(r.models[0].Linears(layer), r.opt.MaxMemory/8)
		hook = sample.take
	}
	if err := r.models[0].Layer(r.ctx, layer, r.states[0], hook); err != nil {
		return fmt.Errorf("%s: %w", r.models[0].Path, err)
	}
	done(0)
	for i := 1; i < len(r.models); i++ {
		m := &r.models[i]
		if err := r.linears(layer, i, sample); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		if err := m.Layer(r.ctx, layer, r.states[i], nil); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		e, err := r.difference(i)
		if err != nil {
			return err
		}
		r.out[i].Layers = append(r.out[i].Layers, LayerError{layer, e})
		done(i)
	}
	return nil
}

// linears measures the outputs of a layer's Linears in checkpoint i for the inputs that the source has.
func (r *run) linears(layer, i int, s *sample) error {
	for k, l := range r.models[i].Linears(layer) {
		x := &s.of[k]
		if x.rows == 0 {
			continue // an expert that no token was routed to
		}
		out := linalg.New(make([]float32, x.rows*l.Out), x.rows, l.Out)
		if err := r.models[i].Apply(r.ctx, l, out, linalg.New(x.in, x.rows, l.In)); err != nil {
			return err
		}
		var e2, y2 float64
		for row := range x.rows {
			add(&e2, &y2, out.Row(row), x.out[row*l.Out:][:l.Out])
		}
		src := r.models[0].Linears(layer)[k]
		e := LinearError{Name: src.Name, Layer: layer, Relative: relative(e2, y2), Tokens: x.rows}
		if l.Expert >= 0 {
			e.Expert = &src.Expert
		}
		r.out[i].Linears = append(r.out[i].Linears, e)
	}
	return nil
}

// add adds the squares of v less w, and of w.
func add(e2, w2 *float64, v, w []float32) {
	for i, x := range w {
		d := float64(v[i]) - float64(x)
		*e2 += float64(d * d)
		*w2 += float64(float64(x) * float64(x))
	}
}

func relative(e2, w2 float64) float64 {
	if e2 == 0 {
		return 0
	}
	return math.Sqrt(e2 / w2)
}

// difference is the relative difference of the hidden states of checkpoint i from those of the source.
func (r *run) difference(i int) (float64, error) {
	const step = 64 // rows at a time
	width := r.models[0].Width()
	a, b := make([]float32, step*width), make([]float32, step*width)
	var e2, h2 float64
	for row, n := 0, r.states[0].Rows(); row < n; row += step {
		k := min(step, n-row) * width
		if err := r.states[0].Read(a[:k], row); err != nil {
			return 0, err
		}
		if err := r.states[i].Read(b[:k], row); err != nil {
			return 0, err
		}
		add(&e2, &h2, b[:k], a[:k])
	}
	return relative(e2, h2), nil
}

// A sample has inputs and outputs of a layer's Linears, for some of the tokens, evenly spread.
type sample struct {
	linears []forward.Linear
	index   map[[2]any]int
	of      []sampled
}

type sampled struct {
	in, out []float32 // rows of them
	rows    int
	most    int // rows, even
	every   int // one of so many tokens is taken
	seen    int
}

// sampleRows is how many tokens a sample has at most: the error of an output is a mean over them and all its elements.
const sampleRows = 512

func newSample(linears []forward.Linear, memory int64) *sample {
	s := &sample{linears: linears, index: map[[2]any]int{}, of: make([]sampled, len(linears))}
	var perRow int64
	for _, l := range linears {
		perRow += 4 * int64(l.In+l.Out)
	}
	most := int(max(4, min(sampleRows, memory/max(perRow, 1)))) &^ 1
	for i, l := range linears {
		s.index[[2]any{l.Name, l.Expert}] = i
		s.of[i] = sampled{most: most, every: 1}
	}
	return s
}

// take keeps every so many rows; when there are too many, every second of them.
func (s *sample) take(l forward.Linear, in, out linalg.Matrix) error {
	i, ok := s.index[[2]any{l.Name, l.Expert}]
	if !ok {
		return fmt.Errorf("internal error: %s is no Linear of the layer", l.Name)
	}
	x := &s.of[i]
	for row := range in.Rows {
		if x.seen++; (x.seen-1)%x.every != 0 {
			continue
		}
		if x.rows == x.most {
			for k := 1; k < x.most/2; k++ {
				copy(x.in[k*l.In:], x.in[2*k*l.In:][:l.In])
				copy(x.out[k*l.Out:], x.out[2*k*l.Out:][:l.Out])
			}
			x.rows /= 2
			x.in, x.out = x.in[:x.rows*l.In], x.out[:x.rows*l.Out]
			if x.every *= 2; (x.seen-1)%x.every != 0 {
				continue
			}
		}
		x.in, x.out = append(x.in, in.Row(row)...), append(x.out, out.Row(row)...)
		x.rows++
	}
	return nil
}
