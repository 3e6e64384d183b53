package convert

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A piece is a matrix [out, in] of a 4-bit checkpoint that the plain one has transposed: a Conv1D's, or one expert's in a stack. Of
// a stack some may be packed and some not.
type piece struct {
	item   Item  // as the checkpoint has it
	first  int64 // element of the output where its transpose begins
	stride int64 // elements of the output from one of its rows to the next
}

var splitExpert = regexp.MustCompile(`^(.*\.)(\d{1,6})\.(gate_proj|up_proj|down_proj)\.weight$`)

// A stack collects what [split] took apart.
type stack struct {
	name   string
	at     int             // index of its first piece among the items
	names  []string        // of an expert's matrices, side by side in the stack
	pieces map[[2]int]Item // by expert and matrix
}

// fuse puts Llama-4's experts back together, which a quantized checkpoint holds one by one: the inverse of [split], for
// anyone's checkpoint.
func (p *Plan) fuse() error {
	if p.Model == nil {
		return nil
	}
	stacks := map[string]*stack{}
	var items []Item
	for _, it := range p.Items {
		s, expert, matrix := p.stackOf(stacks, it.Name)
		if s == nil {
			items = append(items, it)
			continue
		}
		if len(s.pieces) == 0 {
			s.at = len(items)
			items = append(items, Item{Name: s.name})
		}
		key := [2]int{expert, matrix}
		if _, twice := s.pieces[key]; twice {
			return &SourceError{Path: p.Source.Path, Tensor: it.Name, Msg: fmt.Sprintf("expert %d has this matrix twice, under numbers spelled in two ways", expert)}
		}
		s.pieces[key] = it
	}
	for _, name := range sortedKeys(stacks) {
		s := stacks[name]
		it, err := p.fused(s)
		if err != nil {
			return err
		}
		items[s.at] = it
	}
	for i := range items {
		items[i].index = i
	}
	p.Items = items
	return nil
}

// stackOf finds the stack that a tensor is a piece of, nil for any other.
func (p *Plan) stackOf(stacks map[string]*stack, name string) (s *stack, expert, matrix int) {
	m := splitExpert.FindStringSubmatch(name)
	if m == nil {
		return nil, 0, 0
	}
	leaf, names := "gate_up_proj", []string{"gate_proj", "up_proj"}
	if m[3] == "down_proj" {
		leaf, names = m[3], []string{m[3]}
	}
	if !p.Model.Classify(m[1] + leaf).Split {
		return nil, 0, 0
	}
	if s = stacks[m[1]+leaf]; s == nil {
		s = &stack{name: m[1] + leaf, names: names, pieces: map[[2]int]Item{}}
		stacks[s.name] = s
	}
	expert, _ = strconv.Atoi(m[2]) // six digits
	if m[3] == "up_proj" {
		matrix = 1
	}
	return s, expert, matrix
}

// fused is the stack [experts, in, matrices*out] of its pieces [out, in].
func (p *Plan) fused(s *stack) (Item, error) {
	n := len(s.names)
	bad := func(format string, args ...any) (Item, error) {
		return Item{}, &SourceError{Path: p.Source.Path, Tensor: s.name, Msg: fmt.Sprintf(format, args...),
			Hint: "the checkpoint is not complete; get it again from where it was published"}
	}
	if len(s.pieces)%n != 0 {
		return bad("its experts have %d matrices; want %v of each expert", len(s.pieces), s.names)
	}
	experts := len(s.pieces) / n
	var it Item
	for e := range experts {
		for i, name := range s.names {
			part, ok := s.pieces[[2]int{e, i}]
			if !ok {
				return bad("expert %d of %d has no %s.weight", e, experts, name)
			}
			if e+i == 0 {
				if len(part.Shape) != 2 {
					return bad("%s has shape %v; want a matrix", part.Name, part.Shape)
				}
				out, in := part.Shape[0], part.Shape[1]
				it = Item{Name: s.name, File: part.File, DType: part.DType, Out: p.RunDType, Class: p.Model.Classify(s.name), Shape: []int64{int64(experts), in, int64(n) * out}}
				it.Class.Split = false
			}
			out, in := it.Shape[2]/int64(n), it.Shape[1]
			if len(part.Shape) != 2 || part.Shape[0] != out || part.Shape[1] != in || !isFloat(part.Out) {
				return bad("%s has shape %v and dtype %s; want floats of shape [%d %d], as expert 0 has them", part.Name, part.Shape, part.DType, out, in)
			}
			part.Out = it.Out
			if _, done := part.Source.(narrowed); part.DType == safetensors.F64 && !done {
				part.Source, part.elem = narrowed{part.Source}, kernel.F32
			}
			it.SrcBytes += part.SrcBytes
			it.pieces = append(it.pieces, piece{item: part, first: int64(e)*in*it.Shape[2] + int64(i)*out, stride: it.Shape[2]})
		}
	}
	return it, nil
}

// restorer is the job that writes the transposes of an item's pieces, by tiles that lie in memory: the columns of a tile are runs of
// the output, and each source range is read once for every tile that it has a part in.
//
//	piece  out x in     tile         output  in x out
//	       a b c d      b c               a e i      <- a run of the output is a column
//	       e f g h  ->  f g  ->           b f j         of the tile
//	       i j k l      j k               c g k
//	                                      d h l
type restorer struct {
	*execution
	item  *Item
	dst   kernel.Elem
	tiles []tile
	bytes int64 // of a tile's buffer
	out   quantize.Part

	mu   sync.Mutex
	free [][]byte
}

type tile struct {
	piece      *piece
	row0, row1 int64 // of the piece
	col0, col1 int64
}

// minRun is the least number of the piece's columns that a tile takes at once where whole columns do not fit.
const minRun = 64

func (x *execution) newRestorer(it *Item) *restorer {
	r := &restorer{execution: x, item: it, dst: kernelElem(it.Out)}
	size := int64(r.dst.Size())
	room := max(quantize.RangeBytes, x.run.Budget/int64(2*x.workers)) / size
	for i := range it.pieces {
		pc := &it.pieces[i]
		out, in := pc.item.Shape[0], pc.item.Shape[1]
		rows, cols := out, min(in, room/out)
		if least := min(in, minRun); cols < least {
			cols = least
			rows = max(1, room/cols)
		}
		r.bytes = max(r.bytes, rows*cols*size)
		for row := int64(0); row < out; row += rows {
			for col := int64(0); col < in; col += cols {
				r.tiles = append(r.tiles, tile{pc, row, min(row+rows, out), col, min(col+cols, in)})
			}
		}
	}
	return r
}

// cost is what the tiles in work take.
func (r *restorer) cost() int64 { return r.bytes * int64(min(len(r.tiles), r.workers)) }

func (r *restorer) run(each stream.Each[*quantize.Worker]) (err error) {
	if r.out, err = r.part(r.item.Name); err != nil {
		return err
	}
	defer func() { r.free = nil }()
	return each(len(r.tiles), r.restore)
}

func (r *restorer) buffer() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.free); n > 0 {
		b := r.free[n-1]
		r.free = r.free[:n-1]
		return b
	}
	return make([]byte, r.bytes)
}

func (r *restorer) restore(w *quantize.Worker, task int) error {
	t := r.tiles[task]
	buf := r.buffer()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.free = append(r.free, buf)
	}()
	it, size, in := &t.piece.item, int64(r.dst.Size()), t.piece.item.Shape[1]
	values := r.valuesOf(it)
	rows := t.row1 - t.row0
	step := quantize.RangeBytes / int64(max(r.dst.Size(), it.elem.Size())) // a multiple of every block size
	end := t.row1 * in
	for first := t.row0 * in / maxBlock * maxBlock; first < end; first += step {
		n := min(step, it.Elems()-first)
		v, err := values(w, first, n)
		if err != nil {
			return err
		}
		for row := max(first/in, t.row0); row < t.row1 && row*in < first+n; row++ {
			lo, hi := max(row*in+t.col0, first), min(row*in+t.col1, first+n)
			for e := lo; e < hi; e++ {
				copy(buf[((e-row*in-t.col0)*rows+row-t.row0)*size:][:size], v[(e-first)*size:])
			}
		}
	}
	for col := t.col0; col < t.col1; col++ {
		at := t.piece.first + col*t.piece.stride + t.row0
		if _, err := r.out.WriteAt(buf[(col-t.col0)*rows*size:][:rows*size], at*size); err != nil {
			return err
		}
	}
	r.advance(r.item, it.SrcBytes*rows*(t.col1-t.col0)/it.Elems())
	return nil
}

// maxBlock is the largest block of weights, and so a multiple of every other.
const maxBlock = 4096

// valuesOf reads elements of a piece in the dtype of the output, from a multiple of maxBlock on.
func (r *restorer) valuesOf(it *Item) func(w *quantize.Worker, first, n int64) ([]byte, error) {
	if it.packed != nil {
		return newDequantizer(it).values
	}
	return func(w *quantize.Worker, first, n int64) ([]byte, error) {
		src := w.Range()[:n*int64(it.elem.Size())]
		if err := readFull(it.Source, src, first*int64(it.elem.Size())); err != nil {
			return nil, err
		}
		out := w.Rounded()[:n*int64(r.dst.Size())]
		if at, _ := kernel.Convert(out, r.dst, src, it.elem, int(n)); at >= 0 {
			return nil, &weights.ValueError{Tensor: it.Name, File: it.File, Index: first + int64(at), Shape: it.Shape, Value: weights.ValueAt(src, it.elem, at), DType: it.Out}
		}
		return out, nil
	}
}
