// Package activations reads what is known of the inputs of a model's Linears: second moments, and Gram matrices, as the script
// beside it writes them from a calibration text. Its documentation string gives the layout of the file.
package activations

import (
	_ "embed" // the script
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/feedback"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Script is the Python program that writes the file.
//
//go:embed calibrate.py
var Script string

// Format is the value of the metadata key "format".
const Format = "nf4kit.activations/1"

// The parts of an entry.
const (
	moments = ".moments"
	gram    = ".gram"
	heldout = ".heldout"
)

// File is an open file of activations.
type File struct {
	name    string
	f       *safetensors.File
	linears map[string]string // weight to entry
	tails   map[string]string // a weight's name without the prefixes of model classes to the weight; "" if several
	gram    bool

	sensitivities map[string]float64 // of weights; nil if the file has none
}

// Open reads the header of a file. What is wrong with its content is a *checkpoint.InputError or of package safetensors.
func Open(path string) (*File, error) {
	s, err := safetensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open activations: %w", err)
	}
	f := &File{name: path, f: s, linears: map[string]string{}, tails: map[string]string{}}
	if err := f.check(); err != nil {
		s.Close()
		return nil, err
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

func (f *File) bad(tensor, expected, found string) error {
	return &checkpoint.InputError{File: f.name, Tensor: tensor, Expected: expected, Found: found,
		Hint: "nf4kit calibration-script prints the program that writes such a file"}
}

func (f *File) check() error {
	meta := f.f.Metadata()
	if got := meta["format"]; got != Format {
		return f.bad("", fmt.Sprintf("metadata with format %q", Format), fmt.Sprintf("%q", got))
	}
	if err := json.Unmarshal([]byte(meta["linears"]), &f.linears); err != nil {
		return f.bad("", "metadata linears with a JSON object of names", err.Error())
	}
	if text, ok := meta["sensitivities"]; ok {
		if err := json.Unmarshal([]byte(text), &f.sensitivities); err != nil {
			return f.bad("", "metadata sensitivities with a JSON object of numbers", err.Error())
		}
		for _, w := range slices.Sorted(maps.Keys(f.sensitivities)) {
			if v := f.sensitivities[w]; !(v >= 0) || math.IsInf(v, 0) {
				return f.bad(w, "a sensitivity of 0 or more", fmt.Sprint(v))
			}
		}
	}
	if len(f.linears) == 0 {
		return f.bad("", "metadata linears that names weights", "none")
	}
	weights := make([]string, 0, len(f.linears))
	for w := range f.linears {
		weights = append(weights, w)
	}
	slices.Sort(weights) // the first bad one is reported
	for i, w := range weights {
		has, err := f.checkEntry(f.linears[w])
		if err != nil {
			return err
		}
		if i > 0 && has != f.gram {
			return f.bad(f.linears[w]+gram, "Gram matrices for all or for none", "both kinds")
		}
		f.gram = has
		tail := withoutPrefix(w)
		if _, twice := f.tails[tail]; twice {
			f.tails[tail] = ""
		} else {
			f.tails[tail] = w
		}
	}
	return nil
}

// checkEntry looks at an entry's types and shapes, and tells whether it has Gram matrices.
func (f *File) checkEntry(entry string) (hasGram bool, err error) {
	m := f.f.Lookup(entry + moments)
	if m == nil || m.DType != safetensors.F32 || len(m.Shape) != 1 {
		return false, f.bad(entry+moments, "a vector of F32", describe(m))
	}
	g, h := f.f.Lookup(entry+gram), f.f.Lookup(entry+heldout)
	if g == nil && h == nil {
		return false, nil
	}
	n := m.Shape[0]
	for _, p := range []struct {
		t    *safetensors.Tensor
		name string
	}{{g, gram}, {h, heldout}} {
		if p.t == nil || p.t.DType != safetensors.F32 && p.t.DType != safetensors.BF16 || !slices.Equal(p.t.Shape, []int64{n, n}) {
			return false, f.bad(entry+p.name, fmt.Sprintf("F32 or BF16 of shape [%d, %d]", n, n), describe(p.t))
		}
	}
	return true, nil
}

func describe(t *safetensors.Tensor) string {
	if t == nil {
		return "none"
	}
	return fmt.Sprintf("%v of shape %v", t.DType, t.Shape)
}

// withoutPrefix takes the components from the front of a name that a model has in one class or version of transformers and
// not in another.
func withoutPrefix(name string) string {
	for {
		first, rest, ok := strings.Cut(name, ".")
		if !ok || !slices.Contains([]string{"model", "language_model", "transformer", "base_model", "bert", "roberta", "encoder"}, first) {
			return name
		}
		name = rest
	}
}

// Len is the number of weights whose inputs the file knows.
func (f *File) Len() int { return len(f.linears) }

// HasGram tells whether the file holds Gram matrices.
func (f *File) HasGram() bool { return f.gram }

// HasSensitivity tells whether the file says how much errors of outputs count.
func (f *File) HasSensitivity() bool { return len(f.sensitivities) > 0 }

// Sensitivity is how much an error of the outputs of a weight counts: the mean square of the gradient of the log likelihood by
// one of them. ok is false where the file does not say.
func (f *File) Sensitivity(weight string) (value float64, ok bool) {
	if value, ok = f.sensitivities[weight]; !ok {
		value, ok = f.sensitivities[f.tails[withoutPrefix(weight)]]
	}
	return value, ok
}

// Entry finds the entry of a weight by the name that it has in a checkpoint; "" if the file does not know it.
func (f *File) Entry(weight string) string {
	if e, ok := f.linears[weight]; ok {
		return e
	}
	return f.linears[f.tails[withoutPrefix(weight)]]
}

// Columns are the mean squares of the inputs of a weight, one for each of its columns; nil if the file does not know the
// weight. Another number of columns is an error: the file is of another model.
func (f *File) Columns(weight string, columns int64) ([]float32, error) {
	e := f.Entry(weight)
	if e == "" {
		return nil, nil
	}
	t := f.f.Lookup(e + moments)
	if t.Shape[0] != columns {
		return nil, f.otherModel(e+moments, weight, columns, t)
	}
	v, err := f.read(t)
	if err != nil {
		return nil, err
	}
	for i, m := range v {
		if !(m >= 0 && m <= maxMoment) {
			return nil, f.bad(e+moments, "mean squares", fmt.Sprintf("%v in column %d", m, i))
		}
	}
	return v, nil
}

// maxMoment is the largest finite float32.
const maxMoment = 0x1.fffffep127

func (f *File) otherModel(tensor, weight string, columns int64, t *safetensors.Tensor) error {
	return &checkpoint.InputError{File: f.name, Tensor: tensor, Expected: fmt.Sprintf("%d columns, as %s has", columns, weight),
		Found: describe(t), Hint: "the activations are of another model"}
}

// Gram are the Gram matrices of the inputs of a weight, of the calibration text and of the part held out, row by row; nil if
// the file has none for it.
func (f *File) Gram(weight string, columns int64) (calibration, held []float32, err error) {
	e := f.Entry(weight)
	if e == "" || !f.gram {
		return nil, nil, nil
	}
	var out [2][]float32
	var errs [2]error
	var wg sync.WaitGroup
	for _, part := range []string{gram, heldout} {
		if t := f.f.Lookup(e + part); t.Shape[0] != columns {
			return nil, nil, f.otherModel(e+part, weight, columns, t)
		}
	}
	for i, part := range []string{gram, heldout} {
		t := f.f.Lookup(e + part)
		wg.Go(func() { // the one while the other waits for the disk
			if out[i], errs[i] = f.read(t); errs[i] != nil {
				return
			}
			if err := feedback.Check(out[i], int(columns)); err != nil {
				errs[i] = fmt.Errorf("%s: %s: %w", f.name, t.Name, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	return out[0], out[1], nil
}

// readBytes is how much is read at a time.
const readBytes = 1 << 20

func (f *File) read(t *safetensors.Tensor) ([]float32, error) {
	e := kernel.F32
	if t.DType == safetensors.BF16 {
		e = kernel.BF16
	}
	size := int64(e.Size())
	v := make([]float32, t.Size()/size)
	buf := make([]byte, min(t.Size(), readBytes))
	for at := int64(0); at < t.Size(); at += readBytes {
		b := buf[:min(readBytes, t.Size()-at)]
		if n, err := t.ReadAt(b, at); n < len(b) {
			if err == io.EOF || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %s: %s: %w", f.name, t.Name, err)
		}
		kernel.Widen(v[at/size:][:int64(len(b))/size], b, e)
	}
	return v, nil
}
