package lora

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// sums are those that a chunk adds to the figures of a tensor, in float64.
type sums struct {
	n                  int64
	ww, dd, dr, ee, up float64 // |W|², |D|², <D, W'-W>, |W'-W-D|², max|D|
	gap                float64 // |W-Q|²
	otherDD, otherDR   float64 // dd and dr of a sample that was quantized by other scales
}

// sumsOf compares what became of w with what was to be added.
func sumsOf(w []float32, added change, after []float32) sums {
	var c kernel.Deltas
	for i := 0; i < len(w); i += kernel.Chunk {
		end := min(i+kernel.Chunk, len(w))
		kernel.DeltaSums(&c, w[i:end], added.delta[i:end], added.by, after[i:end])
	}
	return sums{n: int64(len(w)), ww: c.W2, dd: c.D2, dr: c.DR, ee: c.E2, up: float64(c.Max)}
}

// add adds those of chunks, in the order of the tensor.
func (s *sums) add(chunks map[int64]sums) {
	end := int64(0)
	for _, first := range slices.Sorted(maps.Keys(chunks)) {
		c := chunks[first]
		if first < end {
			continue // a chunk that was read before, in other bounds
		}
		end = first + c.n
		s.n += c.n
		s.ww += c.ww
		s.dd += c.dd
		s.dr += c.dr
		s.ee += c.ee
		s.up = math.Max(s.up, c.up)
	}
}

// Figures are what became of the update of one tensor.
type Figures struct {
	Tensor string
	Rank   int64
	// Relative is |D|/|W| and Max the largest element of D; W is the base's weight as it is held and D all that the adapters add.
	Relative, Max float64
	// Survives is <D, W'-W>/|D|², the share of the update that rounding leaves; Lost is |W'-W-D|/|D|, the error that it makes in
	// units of the update.
	Survives, Lost float64
	W, D           float64 // |W| and |D|
	Gap            float64 // |W-Q|/|D|, the error of the quantized base that an adapter was trained on; 0 if none was given
	// Otherwise is what survives where the weight is quantized by the other scales of [Merge.Alternative], from a sample; NaN where
	// that was not asked.
	Otherwise float64

	otherDD, otherDR float64
}

func (s *sums) figures(tensor string, rank int64) Figures {
	f := Figures{Tensor: tensor, Rank: rank, Max: s.up, W: math.Sqrt(s.ww), D: math.Sqrt(s.dd), Otherwise: math.NaN(), otherDD: s.otherDD, otherDR: s.otherDR}
	if s.otherDD > 0 {
		f.Otherwise = s.otherDR / s.otherDD
	}
	if s.ww > 0 {
		f.Relative = f.D / f.W
	}
	if s.dd > 0 {
		f.Survives, f.Lost, f.Gap = s.dr/s.dd, math.Sqrt(s.ee/s.dd), math.Sqrt(s.gap/s.dd)
	}
	return f
}

// figures are those of one tensor: of what was written, where that was read back.
func (v *merged) figures() (sums, int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var s, gap sums
	switch {
	case v.written != nil:
		s.add(v.written)
	case v.noted != nil:
		s = *v.noted
	default:
		s.add(v.sums)
	}
	gap.add(v.gap)
	s.gap = gap.ee
	for _, first := range slices.Sorted(maps.Keys(v.other)) {
		s.otherDD, s.otherDR = s.otherDD+v.other[first].dd, s.otherDR+v.other[first].dr
	}
	rank := int64(0)
	for _, u := range v.edit.updates {
		rank += u.rank
	}
	return s, rank
}

// Figures are those of every tensor with an update, in the order of the source, once it was read.
func (m *Merge) Figures() []Figures {
	var out []Figures
	for _, v := range m.read {
		if v.updated() {
			s, rank := v.figures()
			out = append(out, s.figures(v.t.Name, rank))
		}
	}
	return out
}

// Total are the figures of all tensors together.
func (m *Merge) Total() Figures { return join("all", m.Figures()) }

// join puts figures together.
func join(name string, list []Figures) Figures {
	var all sums
	for _, f := range list {
		all.ww += f.W * f.W
		all.dd += f.D * f.D
		all.dr += f.Survives * f.D * f.D
		all.ee += f.Lost * f.Lost * f.D * f.D
		all.gap += f.Gap * f.Gap * f.D * f.D
		all.up = math.Max(all.up, f.Max)
		all.otherDD, all.otherDR = all.otherDD+f.otherDD, all.otherDR+f.otherDR
	}
	return all.figures(name, 0)
}

// ByKind joins the figures of tensors of one name in different layers.
func ByKind(list []Figures) []Figures {
	type kind struct {
		name string
		rank int64
	}
	var order []kind
	of := map[kind][]Figures{}
	for _, f := range list {
		path := strings.TrimSuffix(f.Tensor, ".weight")
		k := kind{path[strings.LastIndexByte(path, '.')+1:], f.Rank}
		if of[k] == nil {
			order = append(order, k)
		}
		of[k] = append(of[k], f)
	}
	var out []Figures
	for _, k := range order {
		f := of[k][0]
		if n := len(of[k]); n > 1 {
			f = join(fmt.Sprintf("%s (%d)", k.name, n), of[k])
			f.Rank = k.rank
		}
		out = append(out, f)
	}
	return out
}

// sweep runs f on every chunk of tensors, with the room for one.
func sweep(ctx context.Context, jobs int, list []*merged, f func(v *merged, x *work, first int64, n int) error) error {
	return stream.Run(ctx, stream.Options{Jobs: jobs}, func() *work { return works.Get().(*work) }, len(list), func(int) int64 { return 0 },
		func(i int, each stream.Each[*work]) error {
			v := list[i]
			return each(int((v.end+chunk-1)/chunk), func(x *work, task int) error {
				first := int64(task) * chunk
				if err := f(v, x, first, int(min(chunk, v.end-first))); err != nil {
					return fmt.Errorf("%s: %w", v.t.Name, err)
				}
				return nil
			})
		})
}

// beside lists the merged tensors that have a counterpart in a model, in their orientation: a Conv1D is stored as a Linear where it
// is quantized.
func (m *Merge) beside(model *weights.Model) (list []*merged, of map[*merged]*weights.Tensor) {
	byName := byName(model.Tensors)
	of = map[*merged]*weights.Tensor{}
	for _, v := range m.read {
		found := byName[v.t.Name]
		if found == nil || found.Values == nil || !v.updated() {
			continue
		}
		t := model.Plain(found)
		if v.t.Turned {
			t = model.Linear(found)
		}
		if slices.Equal(t.Shape, v.t.Shape) {
			list, of[v] = append(list, v), &t
		}
	}
	return list, of
}

// read fills dst with elements of a tensor, from first on.
func read(t *weights.Tensor, x *work, dst []float32, first int64) error {
	e := t.Elem()
	raw := x.raw[:len(dst)*e.Size()]
	if err := t.Read(raw, first); err != nil {
		return err
	}
	kernel.Widen(dst, raw, e)
	return nil
}

// An Alternative is how else a merged weight could be quantized, before its scales are quantized again.
type Alternative struct {
	Type      kernel.Type
	BlockSize int
	Method    quantize.Method
	Inputs    quantize.Inputs
}

// NewAlternative is what quantizes in blocks of f by scales of another method, weighted by the second moments of the inputs where they
// are known.
func NewAlternative(f bnb.Format, scale bnb.Scale, moments []float32) (*Alternative, error) {
	a := &Alternative{Type: kernel.NF4, BlockSize: f.Block()}
	if f.Type == nf4.FP4 {
		a.Type = kernel.FP4
	}
	var err error
	if a.Inputs, err = quantize.InputsOf(moments); err != nil {
		return nil, err
	}
	a.Method, err = quantize.For(scale)
	return a, err
}

// sampled is how many chunks of a weight an alternative is tried on, at most.
const sampled = 4

// try measures what is left of an update in a chunk that is quantized in another way. merged are its values as v.out.
func (v *merged) try(x *work, a *Alternative, merged []byte, added change, first int64, n int) {
	scales, codes := make([]float32, (n+a.BlockSize-1)/a.BlockSize), make([]byte, (n+1)/2)
	p := &quantize.Panel{First: first, N: n, Cols: v.t.Shape[len(v.t.Shape)-1], Values: merged, Elem: v.out, Type: a.Type, BlockSize: a.BlockSize, Inputs: a.Inputs}
	if a.Method.Needs(&quantize.Weight{}).Passes == 1 {
		a.Method.Scales(p, scales, codes)
	} else {
		a.Method.Scales(p, scales, nil)
		a.Method.Codes(p, scales, codes)
	}
	kernel.DequantizeF32(a.Type, x.w[:n], codes, scales, a.BlockSize)
	v.note(v.other, first, sumsOf(x.base[:n], added, x.w[:n]))
}

// Survivors measures what is left of the updates in the tensors that were written, decoded, and of a sample of each what would be,
// were it quantized by alternative; nil asks for none.
func (m *Merge) Survivors(ctx context.Context, written *weights.Model, alternative func(name string) (*Alternative, error), jobs int) error {
	list, of := m.beside(written)
	others := map[*merged]*Alternative{}
	for _, v := range list {
		v.written, v.other = map[int64]sums{}, map[int64]sums{}
		if alternative != nil {
			a, err := alternative(v.t.Name)
			if err != nil {
				return err
			}
			others[v] = a
		}
	}
	return sweep(ctx, jobs, list, func(v *merged, x *work, first int64, n int) error {
		values := x.out(n, v.out)
		added, err := v.merge(x, values, first, n)
		if err != nil {
			return err
		}
		chunks := (v.end + chunk - 1) / chunk
		if a := others[v]; a != nil && first/chunk%((chunks+sampled-1)/sampled) == 0 {
			v.try(x, a, values, added, first, n)
		}
		if err := read(of[v], x, x.w[:n], first); err != nil {
			return err
		}
		v.note(v.written, first, sumsOf(x.base[:n], added, x.w[:n]))
		return nil
	})
}

// Compare measures how far another form of the base is from it: the quantized one that an adapter was trained on.
func (m *Merge) Compare(ctx context.Context, other *weights.Model, jobs int) error {
	list, of := m.beside(other)
	for _, v := range list {
		v.gap = map[int64]sums{}
	}
	return sweep(ctx, jobs, list, func(v *merged, x *work, first int64, n int) error {
		if err := v.load(x, x.w[:n], first); err != nil {
			return err
		}
		if err := read(of[v], x, x.delta[:n], first); err != nil {
			return err
		}
		var s sums
		s.n = int64(n)
		for i, w := range x.w[:n] {
			d := float64(w) - float64(x.delta[i])
			s.ee += float64(d * d)
		}
		v.note(v.gap, first, s)
		return nil
	})
}

// byName finds tensors.
func byName(tensors []weights.Tensor) map[string]*weights.Tensor {
	m := make(map[string]*weights.Tensor, len(tensors))
	for i := range tensors {
		m[tensors[i].Name] = &tensors[i]
	}
	return m
}
