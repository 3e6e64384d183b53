package safetensors

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// FileWriter is a [Writer] of a file on disk, which has its name when it is whole.
type FileWriter struct {
	*Writer
	f    *os.File
	name string
	done bool
	err  error
}

// Create begins a file of that layout. Until [FileWriter.Close] has found every byte written, the file has another
// name beside it, which ends in ".partial"; a file that has the name already stays until then, and is replaced.
func Create(name string, l *Layout) (*FileWriter, error) {
	f, err := os.OpenFile(fmt.Sprintf("%s.%08x.partial", name, rand.Uint32()), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	w := &FileWriter{f: f, name: name}
	err = f.Truncate(l.Size())
	if err == nil {
		w.Writer, err = NewWriter(f, l)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), w.remove())
	}
	return w, nil
}

// Name returns the name that was given to [Create].
func (w *FileWriter) Name() string { return w.name }

// Close fails as [Writer.Close] does, and otherwise puts the file on the disk under its name. After a failure no file is
// left. To give up a file that was begun, close it: a byte that is missing is a failure.
func (w *FileWriter) Close() error {
	if w.done {
		return w.err
	}
	w.done = true
	w.err = w.commit()
	return w.err
}

func (w *FileWriter) commit() error {
	err := w.Writer.Close()
	if err == nil {
		err = w.f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", w.name, err), w.remove())
	}
	if err := w.f.Close(); err != nil {
		return errors.Join(err, os.Remove(w.f.Name()))
	}
	if err := os.Rename(w.f.Name(), w.name); err != nil {
		return errors.Join(err, os.Remove(w.f.Name()))
	}
	return nil
}

// remove closes and deletes the unfinished file.
func (w *FileWriter) remove() error { return errors.Join(w.f.Close(), os.Remove(w.f.Name())) }

// A Filled is a tensor with all its bytes, for files small enough to be made in memory.
type Filled struct {
	Entry
	Data []byte // little-endian, row-major
}

// WriteFile writes a file of these tensors. Like [Create], it leaves no half of one.
func WriteFile(name string, tensors []Filled, metadata map[string]string) error {
	entries := make([]Entry, len(tensors))
	for i, t := range tensors {
		entries[i] = t.Entry
	}
	l, err := NewLayout(entries, metadata)
	if err != nil {
		return err
	}
	w, err := Create(name, l)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if w.WriteAt(t.Name, t.Data, 0) != nil {
			break // Close returns the error
		}
	}
	return w.Close()
}
