package quantize

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// scales are those of one weight: in memory, or beyond the budget in a file. That is the output itself
// without double quantization.
type scales struct {
	n       int64
	double  bool
	spilled bool
	parts   *Parts
	run     *Run

	absmax []float32 // nil when spilled, as are codes and nested
	codes  []byte    // of double quantization
	nested []float32
	offset float32
	table  [256]float32 // the 8-bit map
	file   *os.File
}

// memory is what they take, in bytes.
func (s *scales) memory() int64 {
	if !s.double {
		return 4 * s.n
	}
	return 5*s.n + 4*((s.n+doublequant.BlockSize-1)/doublequant.BlockSize)
}

func (s *scales) begin() error {
	if !s.spilled {
		s.absmax = s.run.floats.Get(int(s.n))
		if s.double {
			s.codes = s.run.bytes.Get(int(s.n))
			s.nested = make([]float32, doublequant.NestedLen(int(s.n)))
		}
		return nil
	}
	if !s.double {
		return nil
	}
	f, err := s.run.Temp()
	if err != nil {
		return fmt.Errorf("spill scales: %w", err)
	}
	s.file = f
	return nil
}

func (s *scales) release() {
	s.run.floats.Put(s.absmax)
	s.run.bytes.Put(s.codes)
	s.absmax, s.codes, s.nested = nil, nil, nil
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
		s.file = nil
	}
}

// place is where the scales [first, first+n) are to be put before write: in the array of all of them,
// or in the worker's.
func (s *scales) place(w *Worker, first int64, n int) []float32 {
	if s.absmax != nil {
		return s.absmax[first:][:n]
	}
	return grow(&w.abs, n)
}

// write keeps the scales v, and stores them where they are stored as they are.
func (s *scales) write(w *Worker, first int64, v []float32) error {
	if !s.double {
		return writeFloats(w, s.parts.Absmax, v, first*4)
	}
	if s.file == nil {
		return nil
	}
	if err := writeFloats(w, s.file, v, first*4); err != nil {
		return fmt.Errorf("spill scales: %w", err)
	}
	return nil
}

// read returns scales [first, first+n).
func (s *scales) read(w *Worker, first int64, n int) ([]float32, error) {
	if s.absmax != nil {
		return s.absmax[first:][:n], nil
	}
	v := grow(&w.abs, n)
	if s.file == nil {
		return v, readFloats(w, v, s.parts.Absmax, first*4)
	}
	if err := readFloats(w, v, s.file, first*4); err != nil {
		return nil, fmt.Errorf("read spilled scales: %w", err)
	}
	return v, nil
}

// mean computes the offset, in block order.
func (s *scales) mean(w *Worker) error {
	var m doublequant.Mean
	for first := int64(0); first < s.n; first += groupTask {
		v, err := s.read(w, first, int(min(groupTask, s.n-first)))
		if err != nil {
			return err
		}
		m.Add(v)
	}
	s.offset = m.Offset()
	return nil
}

// fit finds the 8-bit map.
func (s *scales) fit(w *Worker) error {
	f := new(search.MapFit)
	for first := int64(0); first < s.n; first += groupTask {
		v, err := s.read(w, first, int(min(groupTask, s.n-first)))
		if err != nil {
			return err
		}
		f.Add(v, s.offset)
	}
	s.table = f.Map()
	return nil
}

// doubleQuantize stores the second level of groupTask scales.
func (s *scales) doubleQuantize(w *Worker, task int) error {
	first := int64(task) * groupTask
	n := int(min(groupTask, s.n-first))
	v, err := s.read(w, first, n)
	if err != nil {
		return err
	}
	group := first / doublequant.BlockSize
	codes, nested := grow(&w.dq, n), grow(&w.scale, doublequant.NestedLen(n))
	if s.codes != nil {
		codes, nested = s.codes[first:][:n], s.nested[group:][:len(nested)]
	}
	kernel.MapQuantize(&s.table, codes, nested, v, s.offset)
	if err := writeFull(s.parts.Absmax, codes, first); err != nil {
		return err
	}
	return writeFloats(w, s.parts.NestedAbsmax, nested, group*4)
}

// decoded returns the scales that a loader will multiply with: the stored ones, or what double
// quantization made of them.
func (s *scales) decoded(w *Worker, first int64, n int) ([]float32, error) {
	if !s.double {
		return s.read(w, first, n)
	}
	dst := grow(&w.scale, n)
	group := first / doublequant.BlockSize
	groups := (first+int64(n)-1)/doublequant.BlockSize - group + 1
	codes, nested := s.codes, s.nested
	if codes != nil {
		codes, nested = codes[first:][:n], nested[group:][:groups]
	} else {
		codes, nested = grow(&w.dq, n), make([]float32, groups)
		if err := stream.ReadFull(s.parts.Absmax, codes, first); err != nil {
			return nil, err
		}
		if err := readFloats(w, nested, s.parts.NestedAbsmax, 4*group); err != nil {
			return nil, err
		}
	}
	// A range may begin inside a group of 256 scales when blocks are large.
	for done, at := 0, first; done < n; {
		k := min(n-done, int(doublequant.BlockSize-at%doublequant.BlockSize))
		g := at/doublequant.BlockSize - group
		kernel.MapDequantize(&s.table, dst[done:done+k], codes[done:done+k], nested[g:g+1], s.offset)
		done, at = done+k, at+int64(k)
	}
	return dst, nil
}

func writeFloats(w *Worker, dst io.WriterAt, v []float32, off int64) error {
	b := grow(&w.bytes, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
	return writeFull(dst, b, off)
}

func readFloats(w *Worker, dst []float32, src io.ReaderAt, off int64) error {
	b := grow(&w.bytes, 4*len(dst))
	if err := stream.ReadFull(src, b, off); err != nil {
		return err
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}
