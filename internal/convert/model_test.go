package convert

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A testTensor is one tensor of a checkpoint made for a test.
type testTensor struct {
	name  string
	dtype safetensors.DType
	shape []int64
	at    func(i int) float64 // nil: normal values of scale 0.02
}

func encodeElem(d safetensors.DType, b []byte, v float64) {
	f := float32(v)
	switch d {
	case safetensors.F64:
		binary.LittleEndian.PutUint64(b, math.Float64bits(v))
	case safetensors.F32:
		binary.LittleEndian.PutUint32(b, math.Float32bits(f))
	case safetensors.BF16: // truncated: the tests need values, not rounding
		binary.LittleEndian.PutUint16(b, uint16(math.Float32bits(f)>>16))
	case safetensors.F16:
		binary.LittleEndian.PutUint16(b, halfBits(f))
	default:
		b[0] = byte(int(v))
	}
}

// halfBits is a float16 of f for zero, the normal range, NaN and infinities; truncated.
func halfBits(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	exp := int(bits>>23&255) - 127 + 15
	switch {
	case bits&0x7fffffff > 0x7f800000:
		return sign | 0x7e00
	case exp >= 31:
		return sign | 0x7c00
	case exp <= 0:
		return sign
	}
	return sign | uint16(exp)<<10 | uint16(bits>>13&0x3ff)
}

// writeTensors makes a safetensors file.
func writeTensors(t testing.TB, name string, tensors []testTensor, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	var entries []safetensors.Entry
	for _, x := range tensors {
		entries = append(entries, safetensors.Entry{Name: x.name, DType: x.dtype, Shape: x.shape})
	}
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := safetensors.NewWriter(f, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tensors {
		size := x.dtype.Bits() / 8
		n := 1
		for _, d := range x.shape {
			n *= int(d)
		}
		data := make([]byte, n*size)
		for i := range n {
			v := 0.02 * rng.NormFloat64()
			if x.at != nil {
				v = x.at(i)
			}
			encodeElem(x.dtype, data[i*size:], v)
		}
		if err := w.WriteAt(x.name, data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// openTensors makes a bare file and opens it.
func openTensors(t testing.TB, tensors []testTensor, seed uint64) *checkpoint.Source {
	t.Helper()
	name := filepath.Join(t.TempDir(), "weights.safetensors")
	writeTensors(t, name, tensors, seed)
	return open(t, name)
}

func open(t testing.TB, name string) *checkpoint.Source {
	t.Helper()
	src, err := checkpoint.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// memSink keeps the tensors of a plan in memory.
type memSink struct {
	dir  string
	data map[string][]byte
}

func newMemSink(t testing.TB, p *Plan) *memSink {
	s := &memSink{t.TempDir(), map[string][]byte{}}
	for _, sh := range p.shards {
		for _, x := range sh.Layout.Tensors() {
			s.data[x.Name] = make([]byte, x.Size)
		}
	}
	return s
}

func (s *memSink) Part(_ int, name string) (quantize.Part, error) { return memPart{s.data[name]}, nil }

type memPart struct{ data []byte }

func (p memPart) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(p.data)) {
		return 0, fmt.Errorf("%d bytes at %d of %d", len(b), off, len(p.data))
	}
	return copy(p.data[off:], b), nil
}

func (p memPart) ReadAt(b []byte, off int64) (int, error) { return copy(b, p.data[off:]), nil }

func (s *memSink) Temp() (*os.File, error) { return os.CreateTemp(s.dir, "spill") }

// execute plans and runs a conversion into memory.
func execute(t testing.TB, src *checkpoint.Source, opt Options, x Execution) (*Plan, []Result, map[string][]byte) {
	t.Helper()
	p, err := NewPlan(src, opt)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.outputTensors(); n != len(p.shardOf) {
		t.Errorf("outputTensors is %d before the layout, which has %d", n, len(p.shardOf))
	}
	s := newMemSink(t, p)
	r, err := p.Execute(context.Background(), s, x)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("spill directory: %d files left, error %v", len(left), err)
	}
	return p, r, s.data
}
