package activations

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// An Entry is what some weights are given: they share its vectors or matrices.
type Entry struct {
	Name    string // of the first of its weights, without ".weight"
	Columns int
	Weights []string
}

// Tokens are the numbers of tokens of a calibration text, and of its part that was held out.
type Tokens struct{ Calibration, Heldout int }

// A Writer writes a file of activations.
type Writer struct {
	f    *safetensors.FileWriter
	gram bool // there are matrices
}

// Create begins a file, which appears under its name when it is complete. With matrices its entries have Gram matrices.
func Create(path string, entries []Entry, matrices bool, n Tokens) (*Writer, error) {
	linears := map[string]string{}
	var list []safetensors.Entry
	for _, e := range entries {
		cols := int64(e.Columns)
		list = append(list, safetensors.Entry{Name: e.Name + moments, DType: safetensors.F32, Shape: []int64{cols}})
		if matrices {
			for _, part := range [2]string{gram, heldout} {
				list = append(list, safetensors.Entry{Name: e.Name + part, DType: safetensors.F32, Shape: []int64{cols, cols}})
			}
		}
		for _, w := range e.Weights {
			linears[w] = e.Name
		}
	}
	names, err := json.Marshal(linears)
	if err != nil {
		return nil, fmt.Errorf("write activations: %w", err)
	}
	l, err := safetensors.NewLayout(list, map[string]string{"format": Format, "linears": string(names),
		"tokens": strconv.Itoa(n.Calibration), "heldout_tokens": strconv.Itoa(n.Heldout)})
	if err != nil {
		return nil, fmt.Errorf("write activations: %w", err)
	}
	f, err := safetensors.Create(path, l)
	if err != nil {
		return nil, fmt.Errorf("write activations: %w", err)
	}
	return &Writer{f, matrices}, nil
}

// Put writes an entry: mean squares [columns], and with Gram matrices those of the calibration text and of what was held out
// [columns, columns].
func (w *Writer) Put(entry string, m, calibration, held []float32) error {
	parts := map[string][]float32{moments: m}
	if w.gram {
		parts[gram], parts[heldout] = calibration, held
	}
	buf := make([]byte, readBytes)
	for part, v := range parts {
		for at := 0; at < len(v); at += readBytes / 4 {
			piece := v[at:min(at+readBytes/4, len(v))]
			b := buf[:4*len(piece)]
			kernel.Narrow(b, kernel.F32, piece)
			if err := w.f.WriteAt(entry+part, b, 4*int64(at)); err != nil {
				return fmt.Errorf("write activations: %w", err)
			}
		}
	}
	return nil
}

// Close ends the file; one that lacks an entry is an error, and does not appear.
func (w *Writer) Close() error { return w.f.Close() }

// Abort gives up a file that lacks an entry.
func (w *Writer) Abort() { _ = w.f.Close() }
