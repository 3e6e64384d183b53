// Package imatrix reads importance matrices as llama.cpp's llama-imatrix writes them (tools/imatrix/imatrix.cpp): for each
// matrix the sums of squared activations of its input columns. There are two formats: GGUF, since August 2025 (pull
// request 9400), and the one before, usually called .dat, which --output-format dat still writes.
//
// Of GGUF it reads exactly that: the header (docs/gguf.md of ggml-org/ggml), of which it keeps names, shapes and places,
// and float32 tensors. A full GGUF library brings an HTTP client and a JSON engine along for remote files and model
// estimates that nothing here needs.
package imatrix

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// Bounds on what a file of either format may announce; models have some thousands of tensors.
const (
	maxTensors = 1 << 20
	maxString  = 1 << 16
	maxValues  = 1 << 28 // of one tensor
)

// Matrix is an importance matrix.
type Matrix struct {
	file    string
	entries map[string]*entry // by llama.cpp's name of the weight
}

// entry is one tensor's share: matrix by matrix, where there are several experts, the sums of each column and how many
// rows were summed. The older format does not tell experts apart and has them all in one row.
type entry struct {
	columns, matrices int64
	sum2              []float32
	counts            []float32
}

// Open reads a file. What is wrong with it is a *checkpoint.InputError.
func Open(path string) (*Matrix, error) {
	f, err := checkpoint.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open importance matrix: %w", err)
	}
	return read(f, info.Size(), path)
}

func read(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	var magic [4]byte
	if n, err := r.ReadAt(magic[:], 0); n < len(magic) && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	m := &Matrix{file: name, entries: map[string]*entry{}}
	f := &file{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), left: size}
	var err error
	if string(magic[:]) == ggufMagic {
		err = m.readGGUF(f, r, size)
	} else {
		err = m.readLegacy(f)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// file reads numbers from the front of a file of known size.
type file struct {
	r    *bufio.Reader
	left int64 // bytes not yet read
	at   int64
}

// take reads n bytes, at most maxString.
func (d *file) take(n int64) ([]byte, error) {
	if n < 0 || n > d.left || n > maxString {
		return nil, fmt.Errorf("%d bytes announced at byte %d, %d left", n, d.at, d.left)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(d.r, p); err != nil {
		return nil, fmt.Errorf("read at byte %d: %w", d.at, err)
	}
	d.left -= n
	d.at += n
	return p, nil
}

func (d *file) u32() (uint32, error) {
	p, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(p), nil
}

// Len is the number of weights that the matrix knows.
func (m *Matrix) Len() int { return len(m.entries) }

// Columns are the mean squared activations of the input columns of a weight, named as in a checkpoint of Hugging Face;
// nil if the matrix has none for it, or none was seen. A matrix of another width is an error: it is of another model.
func (m *Matrix) Columns(tensor string, columns int64) ([]float32, error) {
	name := nameOf(tensor)
	e, base := m.find(name, columns)
	if e == nil {
		return nil, nil
	}
	matrices, index, of := e.matrices, name.expert, name.expert // of counts
	switch {
	case e.matrices == 1 && e.columns == columns:
		index, of = 0, 0 // a matrix that the experts share, or none of several
	case e.columns == columns:
	case e.matrices == 1 && columns > 0 && e.columns%columns == 0 && strings.HasSuffix(base, "_exps.weight"):
		matrices, of = e.columns/columns, 0
	default:
		return nil, &checkpoint.InputError{File: m.file, Tensor: base, Expected: fmt.Sprintf("%d columns, as %s has", columns, tensor),
			Found: fmt.Sprint(e.columns), Hint: "the importance matrix is of another model"}
	}
	if index >= matrices || !(e.counts[of] > 0) {
		return nil, nil
	}
	out := make([]float32, columns)
	for i := range out {
		out[i] = e.sum2[index*columns+int64(i)] / e.counts[of]
		if !(out[i] >= 0) || math.IsInf(float64(out[i]), 0) {
			return nil, &checkpoint.InputError{File: m.file, Tensor: base, Expected: "sums of squares", Found: fmt.Sprint(out[i])}
		}
	}
	return out, nil
}
