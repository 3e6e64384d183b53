package weights

import (
	"fmt"
	"io"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/panel"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// panelBytes bounds the rectangle that is held of a matrix that is read across. The rows of one that is larger are read by
// strips; of 1600 x 6400 elements of 16 bits, by strips of 2.6 KB.
const panelBytes = 4 << 20

// turned presents a part of stored values as a matrix in its transpose, row-major: the [in, out] weight of a Conv1D as the
// [out, in] weight of a Linear, or one expert's matrix of a fused stack.
//
//	src  in x out          logical  out x in
//	     a b c d                     a e i
//	     e f g h       ->            b f j    <- a panel of rows 1..2 is the
//	     i j k l                     c g k       strips b c, f g, j k
//	                                 d h l
type turned struct {
	src     io.ReaderAt
	in, out int64 // of the part
	stride  int64 // elements from a row of src to the next; out, if the part is all of the row
	first   int64 // element of src where the part begins
	size    int64 // bytes of an element

	cache *panel.Cache
	whole *region // of a source that is not on this machine; nil for panels
}

// A region is the stored rows that matrices of a part have in common: both projections of an expert, or all of a Conv1D. From a
// server it comes whole, once, where panels of strips would ask for every block of it again and again.
type region struct {
	first int64 // element of src where it begins
	cache *panel.Cache
}

// maxRegion bounds a region, and regions is how many are held: Llama-4 Maverick's experts have 168 MB.
const (
	maxRegion = 256 << 20
	regions   = 2
)

// region is that of in rows of a tensor from element first on, nil where panels serve.
func (m *Model) region(t *Tensor, first, in, stride int64) *region {
	if m.Source == nil || m.Source.IsLocal() || in*stride*int64(t.DType.Bits()/8) > maxRegion {
		return nil
	}
	if m.regions == nil {
		m.regions = panel.NewCache(panel.Bytes / regions)
	}
	return &region{first, m.regions}
}

// A turnedPanel names some rows of the transpose, all that fit a panel.
type turnedPanel struct {
	of  *turned
	row int64
}

// panelRows is how many rows of the transpose a panel has.
func (r *turned) panelRows() int64 {
	return min(r.out, max(1, panelBytes/(r.in*r.size)))
}

func (r *turned) Prefetch(off, n int64) {}
func (r *turned) Drop(off, n int64)     {}

func (r *turned) ReadAt(p []byte, off int64) (int, error) {
	if off%r.size != 0 || int64(len(p))%r.size != 0 {
		return 0, fmt.Errorf("weights: internal error: unaligned read of %d bytes at %d", len(p), off)
	}
	var eof error
	if end := r.in * r.out * r.size; off > end-int64(len(p)) {
		p, eof = p[:max(0, end-off)], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	first := off / r.size
	if r.whole != nil {
		held, err := r.whole.cache.Acquire(r.whole, r.in*r.stride*r.size, func(data []byte) error {
			return stream.ReadFull(r.src, data, r.whole.first*r.size)
		})
		if err != nil {
			return 0, err
		}
		r.turn(p, held.Data[(r.first-r.whole.first)*r.size:], first, r.stride)
		r.whole.cache.Release(held)
		return len(p), eof
	}
	end := first + int64(len(p))/r.size
	width := r.panelRows()
	for at := first; at < end; {
		row0 := at / r.in / width * width // of the panel
		rows := min(width, r.out-row0)
		next := min(end, (row0+rows)*r.in)
		held, err := r.cache.Acquire(turnedPanel{r, row0}, r.in*rows*r.size, func(data []byte) error { return r.fill(data, row0, rows) })
		if err != nil {
			return int((at - first) * r.size), err
		}
		r.turn(p[(at-first)*r.size:(next-first)*r.size], held.Data, at-row0*r.in, rows)
		r.cache.Release(held)
		at = next
	}
	return len(p), eof
}

// fill reads the strips of a panel: at once if they lie beside each other.
func (r *turned) fill(data []byte, row, rows int64) error {
	if rows == r.stride {
		return stream.ReadFull(r.src, data, r.first*r.size)
	}
	for i := range r.in {
		if err := stream.ReadFull(r.src, data[i*rows*r.size:][:rows*r.size], (r.first+i*r.stride+row)*r.size); err != nil {
			return err
		}
	}
	return nil
}

// turn writes elements of the transpose from at on, counted from the first of the panel: a part of a row, whole rows, and a
// part of a row.
func (r *turned) turn(p, data []byte, at, rows int64) {
	for len(p) > 0 {
		row, col := at/r.in, at%r.in
		n, cols := int64(1), min(r.in-col, int64(len(p))/r.size)
		if whole := int64(len(p)) / (r.in * r.size); col == 0 && whole > 0 {
			n = whole
		}
		kernel.Transpose(p, r.in, data[(col*rows+row)*r.size:], rows, n, cols, int(r.size))
		p, at = p[n*cols*r.size:], at+n*cols
	}
}

// Linear is the tensor in the orientation in which a Linear holds its weight, [out, in]. Only a Conv1D's has another.
func (m *Model) Linear(t *Tensor) Tensor {
	if !t.Class.Conv1D || t.Turned {
		return *t
	}
	return m.turn(t)
}

// Stacked is a stack of experts [experts, out, in] as one matrix [experts*out, in], nil for any other tensor.
func (t *Tensor) Stacked() *Tensor {
	if len(t.Shape) != 3 || t.Values == nil || !IsFloat(t.DType) {
		return nil
	}
	l := t.Floats()
	l.Shape = []int64{t.Shape[0] * t.Shape[1], t.Shape[2]}
	return &l
}

// Plain is the tensor in the orientation in which an unquantized checkpoint has it, [in, out] of a Conv1D's.
func (m *Model) Plain(t *Tensor) Tensor {
	if !t.Class.Conv1D || !t.Turned {
		return *t
	}
	return m.turn(t)
}

func (m *Model) turn(t *Tensor) Tensor {
	l := *t
	if len(t.Shape) != 2 {
		return l
	}
	rows, cols := t.Shape[0], t.Shape[1]
	l.Values = &turned{src: t.Values, in: rows, out: cols, stride: cols, size: int64(t.DType.Bits() / 8), cache: m.panels,
		whole: m.region(t, 0, rows, cols)}
	l.Shape, l.Turned = []int64{cols, rows}, !t.Turned
	return l
}

// Experts takes a stack of experts apart, as Llama-4's loaders want a quantized checkpoint (SequentialLlama4TextExperts, in
// transformers' quantizers/base.py): expert by expert, each matrix transposed.
//
//	experts.gate_up_proj [E, hidden, 2*inner] -> experts.e.gate_proj.weight, up_proj.weight [inner, hidden]
//	experts.down_proj    [E, inner, hidden]   -> experts.e.down_proj.weight [hidden, inner]
//
// It returns nil for a tensor that is no such stack.
func (m *Model) Experts(t *Tensor) ([]Tensor, error) {
	if !t.Class.Split || len(t.Shape) != 3 {
		return nil, nil
	}
	if t.Parts != nil {
		return t.Parts, nil
	}
	stack, names := matricesOf(t.Name)
	experts, in, width := t.Shape[0], t.Shape[1], t.Shape[2]
	n := int64(len(names))
	if width%n != 0 {
		return nil, &SourceError{Path: m.Source.Path, Tensor: t.Name, Msg: fmt.Sprintf("shape %v: want an even last size, for two projections", t.Shape)}
	}
	out := width / n
	size := int64(t.DType.Bits() / 8)
	parts := make([]Tensor, 0, experts*n)
	for e := range experts {
		whole := m.region(t, e*in*width, in, width)
		for i, name := range names {
			module := fmt.Sprintf("%s%d.%s", stack, e, name)
			parts = append(parts, Tensor{
				Name: module + ".weight", File: t.File, Class: t.Class.OneOfStack(module), DType: t.DType, Shape: []int64{out, in},
				Bytes: t.Bytes / (experts * n), Method: t.Method, Turned: true,
				Values: &turned{src: t.Values, in: in, out: out, stride: width, first: e*in*width + int64(i)*out, size: size, cache: m.panels, whole: whole},
			})
		}
	}
	return parts, nil
}

// matricesOf parts the name of a stack: what stands before the numbers of its experts, and an expert's matrices.
func matricesOf(name string) (stack string, matrices []string) {
	dot := strings.LastIndexByte(name, '.')
	if name[dot+1:] == "gate_up_proj" {
		return name[:dot+1], []string{"gate_proj", "up_proj"}
	}
	return name[:dot+1], []string{name[dot+1:]}
}
