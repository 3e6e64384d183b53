package quantize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

type memory struct{ data []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.data[off:], p), nil }
func (m *memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m.data[off:]), nil }

// counted is a source that counts how often each byte is read.
type counted struct {
	data []byte
	mu   sync.Mutex
	read []byte
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(p, c.data[off:])
	for i := range n {
		c.read[off+int64(i)]++
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (c *counted) Prefetch(_, _ int64) {}
func (c *counted) Drop(_, _ int64)     {}

// f32s is a weight of n values in float32, that repeat late.
func f32s(n int64) []byte {
	b := make([]byte, 4*n)
	for i := range n {
		x := float32(math.Sin(float64(i)*0.37) * (1 + float64(i%911)/300))
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
	return b
}

// nearest is a method of two passes on rows: scales are 15/16 of the largest magnitude, negative in
// every other block, and codes the nearest to what will be decoded.
type nearest struct {
	mu     *sync.Mutex
	panels map[[3]int64]int // first element, elements, rows: how often
}

func (nearest) Needs(*Weight) Needs { return Needs{Passes: 2, Rows: true, Memory: 100} }

func (m nearest) Scales(p *Panel, scale []float32, codes []byte) {
	if codes != nil {
		panic("codes in the first of two passes")
	}
	m.mu.Lock()
	m.panels[[3]int64{p.First, int64(p.N), int64(p.Rows)}]++
	m.mu.Unlock()
	kernel.Absmax(p.Elem, scale, p.Values, p.BlockSize)
	for i := range scale {
		scale[i] *= 15. / 16
		if i%2 == 1 {
			scale[i] = -scale[i]
		}
	}
}

func (m nearest) Codes(p *Panel, scale []float32, codes []byte) {
	table := kernel.Values(p.Type)
	clear(codes)
	x := make([]float32, p.N)
	kernel.Widen(x, p.Values, p.Elem)
	for i, x := range x {
		best, at := math.Inf(1), 0
		for c, v := range table {
			if d := math.Abs(float64(x) - float64(v*scale[i/p.BlockSize])); d < best {
				best, at = d, c
			}
		}
		codes[i/2] |= byte(at) << (4 * (1 - i%2))
	}
}

type outcome struct {
	result Result
	parts  [6][]byte
	reads  byte // of the byte that was read most often
}

func quantize(t *testing.T, m Method, rows, cols int64, double bool, o stream.Options, measure bool) outcome {
	t.Helper()
	const block = 64
	n := rows * cols
	blocks := (n + block - 1) / block
	dir := t.TempDir()
	src := &counted{data: f32s(n), read: make([]byte, 4*n)}
	var parts [6]memory
	scaleBytes := 4 * blocks
	if double {
		scaleBytes = blocks
		parts[3].data, parts[4].data = make([]byte, 4*doublequant.NestedLen(int(blocks))), make([]byte, 1024)
	}
	parts[0].data, parts[1].data, parts[2].data, parts[5].data = make([]byte, (n+1)/2), make([]byte, scaleBytes), make([]byte, 64), make([]byte, 4)
	w := &Weight{Source: src, Elem: kernel.F32, Run: kernel.BF16, Rows: rows, Cols: cols, Type: kernel.NF4, BlockSize: block, DoubleQuant: double, Method: m,
		Parts: Parts{&parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &parts[5]},
		State: func(offset float32) ([]byte, error) {
			return binary.LittleEndian.AppendUint32(nil, math.Float32bits(offset)), nil
		},
		Bad: func(index int64, value float64) error { return fmt.Errorf("element %d is %v", index, value) },
	}
	r := &Run{Budget: o.Budget(), Measure: measure, Temp: func() (*os.File, error) { return os.CreateTemp(dir, "spill") }}
	var out outcome
	j := r.New(w)
	err := stream.Run(t.Context(), o, NewWorker, 1, func(int) int64 { return j.Cost() }, func(_ int, each stream.Each[*Worker]) (err error) {
		out.result, err = j.Quantize(each)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d scratch files are left, error %v", len(left), err)
	}
	for i := range parts {
		out.parts[i] = parts[i].data
	}
	for _, k := range src.read {
		out.reads = max(out.reads, k)
	}
	return out
}

func equal(a, b [6][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// TestMemory has every budget give the same parts and sums, of both kinds of method, and counts reads.
func TestMemory(t *testing.T) {
	little := stream.Options{Jobs: 2, Memory: stream.LeastMemory(2)}
	for _, double := range []bool{true, false} {
		for _, two := range []bool{false, true} {
			var m Method = Absmax{}
			if two {
				m = nearest{new(sync.Mutex), map[[3]int64]int{}}
			}
			want := quantize(t, m, 301, 1000, double, stream.Options{Jobs: 1}, true)
			if want.result.ReadTwice || want.reads != 1 {
				t.Errorf("two passes %v: with memory, read %d times", two, want.reads)
			}
			for _, o := range []stream.Options{{Jobs: 3}, little, {Jobs: 1, Memory: stream.LeastMemory(1) + 200_000}} {
				got := quantize(t, m, 301, 1000, double, o, true)
				if !equal(want.parts, got.parts) {
					t.Errorf("two passes %v, %+v: other parts", two, o)
				}
				most := byte(2)
				if two {
					most = 3
				}
				if (o.Memory == 0) == got.result.ReadTwice || got.reads > most {
					t.Errorf("two passes %v, %+v: read %d times, ReadTwice %v", two, o, got.reads, got.result.ReadTwice)
				}
				got.result.ReadTwice = false
				if d := cmp.Diff(want.result, got.result); d != "" {
					t.Errorf("two passes %v, %+v: result (-want +got):\n%s", two, o, d)
				}
			}
			plain := quantize(t, m, 301, 1000, double, little, false)
			if !equal(want.parts, plain.parts) || plain.result.Measured {
				t.Errorf("two passes %v: without sums other parts", two)
			}
			if most := map[bool]byte{false: 1, true: 2}[two]; plain.reads > most {
				t.Errorf("two passes %v: read %d times without sums, want %d", two, plain.reads, most)
			}
		}
	}
}

// TestCodesAreForDecodedScales decodes the parts of a method of two passes: no code is nearer than the
// one written, with the scales after double quantization.
func TestCodesAreForDecodedScales(t *testing.T) {
	const rows, cols, block = 33, 100, 64
	m := nearest{new(sync.Mutex), map[[3]int64]int{}}
	got := quantize(t, m, rows, cols, true, stream.Options{Jobs: 1}, true)
	blocks := len(got.parts[1])
	nested := make([]float32, len(got.parts[3])/4)
	kernel.Widen(nested, got.parts[3], kernel.F32)
	scale := make([]float32, blocks)
	offset := math.Float32frombits(binary.LittleEndian.Uint32(got.parts[5]))
	kernel.DynamicDequantize(scale, got.parts[1], nested, offset)
	table := kernel.Values(kernel.NF4)
	src := f32s(rows * cols)
	bf := make([]byte, rows*cols*2)
	kernel.Convert(bf, kernel.BF16, src, kernel.F32, rows*cols)
	x := make([]float32, rows*cols)
	kernel.Widen(x, bf, kernel.BF16)
	var e2 float64
	for i, x := range x {
		c := got.parts[0][i/2] >> (4 * (1 - i%2)) & 15
		s := scale[i/block]
		for other, v := range table {
			if math.Abs(float64(x)-float64(v*s)) < math.Abs(float64(x)-float64(table[c]*s)) {
				t.Fatalf("element %d: code %d is nearer than %d with scale %v", i, other, c, s)
			}
		}
		v := float64(math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))) - float64(table[c]*s)
		e2 += v * v
	}
	if d := math.Abs(e2 - got.result.Written.E2); d > 1e-9*e2 {
		t.Errorf("sum of squared errors %v, decoded %v", got.result.Written.E2, e2)
	}
}

// TestPanels are whole rows and whole blocks where that is possible.
func TestPanels(t *testing.T) {
	for _, c := range []struct {
		rows, cols int64
		whole      bool
	}{{5000, 64, true}, {500, 1000, true}, {4099, 96, true}, {9, 65537, false}, {3, 300_000, false}, {40, 7, true}} {
		m := nearest{new(sync.Mutex), map[[3]int64]int{}}
		quantize(t, m, c.rows, c.cols, true, stream.Options{Jobs: 2}, false)
		var elems, rows int64
		for p, times := range m.panels {
			if times != 1 {
				t.Errorf("%+v: panel %v came %d times", c, p, times)
			}
			if p[0]%64 != 0 || c.whole && (p[0]%c.cols != 0 || p[1]%c.cols != 0) || !c.whole && p[2] != 0 {
				t.Errorf("%+v: panel of %d elements, %d rows, at %d", c, p[1], p[2], p[0])
			}
			elems += p[1]
			rows += p[2]
		}
		if elems != c.rows*c.cols || c.whole && rows != c.rows {
			t.Errorf("%+v: panels of %d elements and %d rows together", c, elems, rows)
		}
	}
}

func TestFor(t *testing.T) {
	if m, err := For(bnb.AbsMax); err != nil || m != (Absmax{}) {
		t.Errorf("absmax: %v, error %v", m, err)
	}
	if _, err := For(200); err == nil {
		t.Error("scale 200: no error")
	}
}

func TestErrors(t *testing.T) {
	bad := errors.New("bad")
	run := func(change func(w *Weight)) error {
		src := &counted{data: f32s(640), read: make([]byte, 4*640)}
		part := &memory{make([]byte, 4096)}
		w := &Weight{Source: src, Elem: kernel.F32, Run: kernel.BF16, Rows: 10, Cols: 64, BlockSize: 64, Method: Absmax{},
			Parts: Parts{part, part, part, part, part, part}, State: func(float32) ([]byte, error) { return nil, nil },
			Bad: func(index int64, value float64) error { return fmt.Errorf("element %d is %v", index, value) }}
		change(w)
		r := &Run{Measure: true, Budget: 1 << 30}
		j := r.New(w)
		return stream.Run(t.Context(), stream.Options{Jobs: 2}, NewWorker, 1, func(int) int64 { return 0 },
			func(_ int, each stream.Each[*Worker]) error { _, err := j.Quantize(each); return err })
	}
	nan := bytes.Clone(f32s(640))
	binary.LittleEndian.PutUint32(nan[4*77:], math.Float32bits(float32(math.NaN())))
	for want, change := range map[string]func(*Weight){
		"bad":               func(w *Weight) { w.State = func(float32) ([]byte, error) { return nil, bad } },
		"element 77 is NaN": func(w *Weight) { w.Source.(*counted).data = nan },
		"unexpected EOF":    func(w *Weight) { w.Source.(*counted).data = nan[:100] },
	} {
		if err := run(change); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
