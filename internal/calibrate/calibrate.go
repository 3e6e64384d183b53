// Package calibrate collects what the inputs of a model's Linears are like on a text, with the forward pass of package forward:
// the second moments and Gram matrices of package activations, as its script collects them through transformers.
package calibrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/activations"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// Options of a calibration.
type Options struct {
	Gram      bool
	Jobs      int
	MaxMemory int64 // of Gram matrices; one entry's are held whatever they take
	Progress  func(what string, n int64)
}

// Windows takes n tokens of texts, as many of each, in windows of size tokens that are spread over the whole of it: as the
// script does. Every tenth is held out, from the sixth on, or the last.
func Windows(texts [][]int32, n, size int) (calibration, heldout [][]int32, err error) {
	var rows [][]int32
	for _, ids := range texts {
		most := max(1, n/len(texts)/size)
		step := max(size, len(ids)/most)
		count := 0
		for at := 0; at < len(ids) && count < most; at += step {
			count++
			if row := ids[at:min(at+size, len(ids))]; len(row) > 1 {
				rows = append(rows, row)
			}
		}
	}
	if len(rows) < 2 {
		return nil, nil, fmt.Errorf("too little text for two windows of %d tokens: give more, or a smaller --context", size)
	}
	for i, row := range rows {
		if i%10 == 5 || len(rows) <= 5 && i == len(rows)-1 {
			heldout = append(heldout, row)
		} else {
			calibration = append(calibration, row)
		}
	}
	return calibration, heldout, nil
}

// Count is the number of tokens.
func Count(rows [][]int32) (n int) {
	for _, r := range rows {
		n += len(r)
	}
	return n
}

// Work is how much there is to do, in the units of Options.Progress.
func Work(d *forward.Decoder, calibration, heldout [][]int32) int64 {
	return int64(d.Layers()) * int64(Count(calibration)+Count(heldout))
}

// probeTokens is how many tokens tell which Linears are given the same.
const probeTokens = 16

// Write collects and writes a file. Of experts in a stack it has nothing.
func Write(ctx context.Context, d *forward.Decoder, calibration, heldout [][]int32, path string, opt Options) (err error) {
	layers, err := entries(ctx, d, calibration[0][:min(probeTokens, len(calibration[0]))])
	if err != nil {
		return err
	}
	w, err := activations.Create(path, slices.Concat(layers...), opt.Gram, activations.Tokens{Calibration: Count(calibration), Heldout: Count(heldout)})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.Abort()
		}
	}()
	r := &run{ctx: ctx, d: d, w: w, opt: opt}
	for i, rows := range [][][]int32{calibration, heldout} {
		if r.states[i], err = d.Start(ctx, rows); err != nil {
			return err
		}
		defer r.states[i].Close()
	}
	for layer, list := range layers {
		if err := r.layer(layer, list); err != nil {
			return err
		}
	}
	return w.Close()
}

// entries finds which Linears of every layer are given the same inputs, for a few tokens: those of one entry.
func entries(ctx context.Context, d *forward.Decoder, ids []int32) ([][]activations.Entry, error) {
	s, err := d.Start(ctx, [][]int32{ids})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	out := make([][]activations.Entry, d.Layers())
	for layer := range out {
		var inputs [][]float32 // of each entry
		seen := map[string]bool{}
		hook := func(l forward.Linear, in, _ linalg.Matrix) error {
			if l.Expert >= 0 {
				return nil
			}
			var x []float32
			for i := range in.Rows {
				x = append(x, in.Row(i)...)
			}
			seen[l.Name] = true
			for i := range inputs {
				if e := &out[layer][i]; e.Columns == l.In && slices.Equal(inputs[i], x) {
					e.Weights = append(e.Weights, l.Name)
					return nil
				}
			}
			inputs = append(inputs, x)
			out[layer] = append(out[layer], entryOf(l))
			return nil
		}
		if err := d.Layer(ctx, layer, s, hook); err != nil {
			return nil, err
		}
		for _, l := range d.Linears(layer) { // an expert of its own that none of the tokens was routed to
			if l.Expert < 0 && !seen[l.Name] {
				out[layer] = append(out[layer], entryOf(l))
			}
		}
	}
	return out, nil
}

func entryOf(l forward.Linear) activations.Entry {
	return activations.Entry{Name: strings.TrimSuffix(l.Name, ".weight"), Columns: l.In, Weights: []string{l.Name}}
}

type run struct {
	ctx    context.Context
	d      *forward.Decoder
	w      *activations.Writer
	opt    Options
	states [2]*forward.States // of the calibration text and of what is held out
}

// sums are those of an entry.
type sums struct {
	entry   *activations.Entry
	moments []float64
	gram    [2]linalg.Matrix
	data    [2][]float32
	rows    [2]int
}

// layer goes through a layer as often as the budget for Gram matrices asks for, at last for good.
func (r *run) layer(layer int, list []activations.Entry) error {
	for len(list) > 0 {
		var now []activations.Entry
		var used int64
		for len(list) > 0 {
			need := int64(0)
			if r.opt.Gram {
				need = 8 * int64(list[0].Columns) * int64(list[0].Columns)
			}
			if len(now) > 0 && used+need > r.opt.MaxMemory {
				break
			}
			used += need
			now, list = append(now, list[0]), list[1:]
		}
		if err := r.pass(layer, now, len(list) == 0); err != nil {
			return err
		}
	}
	return nil
}

// pass sums over the text for some entries of a layer; the last one takes the hidden states through it.
func (r *run) pass(layer int, list []activations.Entry, last bool) error {
	of := map[string]*sums{}
	all := make([]*sums, len(list))
	for i := range list {
		e := &list[i]
		s := &sums{entry: e, moments: make([]float64, e.Columns)}
		if r.opt.Gram {
			for k := range s.gram {
				s.data[k] = make([]float32, e.Columns*e.Columns)
				s.gram[k] = linalg.New(s.data[k], e.Columns, e.Columns)
			}
		}
		all[i], of[e.Weights[0]] = s, s // the others are given the same
	}
	do := r.d.Measure
	if last {
		do = r.d.Layer
	}
	for part, states := range r.states {
		hook := func(l forward.Linear, in, _ linalg.Matrix) error {
			if s := of[l.Name]; s != nil && l.Expert < 0 {
				s.add(part, in, r.opt.Jobs)
			}
			return r.ctx.Err()
		}
		if err := do(r.ctx, layer, states, hook); err != nil {
			return err
		}
		if last && r.opt.Progress != nil {
			r.opt.Progress(fmt.Sprintf("layer %d", layer), int64(states.Rows()))
		}
	}
	for _, s := range all {
		if err := s.put(r.w); err != nil {
			return err
		}
	}
	return nil
}

// add adds the squares of inputs, of the calibration text alone, and their products.
func (s *sums) add(part int, in linalg.Matrix, jobs int) {
	s.rows[part] += in.Rows
	if part == 0 {
		for i := range in.Rows {
			for k, v := range in.Row(i) {
				s.moments[k] += float64(float64(v) * float64(v))
			}
		}
	}
	if s.data[part] != nil {
		linalg.MulAdd(s.gram[part], in.T(), in, jobs)
	}
}

// put writes means. What no token came to counts every column alike.
func (s *sums) put(w *activations.Writer) error {
	m := make([]float32, len(s.moments))
	for k, v := range s.moments {
		m[k] = 1
		if s.rows[0] > 0 {
			m[k] = float32(v / float64(s.rows[0]))
		}
	}
	for part, g := range s.data {
		if g == nil {
			continue
		}
		n := s.rows[part]
		for i := range g {
			if n > 0 {
				g[i] /= float32(n)
			}
		}
		if n == 0 {
			for k := range m {
				g[k*len(m)+k] = 1
			}
		}
	}
	return w.Put(s.entry.Name, m, s.data[0], s.data[1])
}
