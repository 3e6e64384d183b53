package imatrix

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// readLegacy reads the format of before August 2025 (imatrix.cpp, save_imatrix_legacy), all of it in little-endian int32
// but for the values:
//
//	entries, and for each: length of its name, name, calls, number of values, values float32
//	last chunk, length of the dataset's name, name
//
// A value is the mean square of a column times the calls, so that calls stand for a count. Files of before April 2024
// end with the entries. It has no magic number: what makes it one is that the lengths add up to the file.
func (m *Matrix) readLegacy(f *file) error {
	if err := m.legacyEntries(f); err != nil {
		return &checkpoint.InputError{File: m.file, Expected: "an importance matrix of llama-imatrix, in GGUF or the older format", Found: err.Error()}
	}
	return nil
}

func (m *Matrix) legacyEntries(f *file) error {
	n, err := f.length("entries", maxTensors)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("none in it")
	}
	for range n {
		name, err := f.name()
		if err != nil {
			return err
		}
		calls, err := f.length("calls", math.MaxInt32)
		if err != nil {
			return err
		}
		values, err := f.length("values", maxValues)
		if err != nil {
			return err
		}
		if 4*values > f.left {
			return fmt.Errorf("%d values announced at byte %d, %d bytes left", values, f.at-4, f.left)
		}
		if _, ok := m.entries[name]; ok || name == "" || values == 0 {
			return fmt.Errorf("at byte %d an entry %.80q that is empty or there twice", f.at, name)
		}
		p := make([]byte, 4*values)
		if _, err := io.ReadFull(f.r, p); err != nil {
			return fmt.Errorf("read at byte %d: %w", f.at, err)
		}
		f.at, f.left = f.at+4*values, f.left-4*values
		e := &entry{columns: values, matrices: 1, sum2: make([]float32, values), counts: []float32{float32(calls)}}
		for i := range e.sum2 {
			e.sum2[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
		}
		m.entries[name] = e
	}
	if f.left == 0 {
		return nil
	}
	if _, err := f.length("chunks", math.MaxInt32); err != nil {
		return err
	}
	if _, err := f.name(); err != nil {
		return err
	}
	if f.left > 0 {
		return fmt.Errorf("%d bytes after its end", f.left)
	}
	return nil
}

// length reads an int32 from 0 to most.
func (f *file) length(what string, most int64) (int64, error) {
	v, err := f.u32()
	if err == nil && (v > math.MaxInt32 || int64(v) > most) {
		err = fmt.Errorf("%d %s announced at byte %d", int32(v), what, f.at-4)
	}
	return int64(v), err
}

func (f *file) name() (string, error) {
	n, err := f.length("bytes of a name", maxString)
	if err != nil {
		return "", err
	}
	p, err := f.take(n)
	return string(p), err
}
