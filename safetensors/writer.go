package safetensors

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
)

var errClosed = errors.New("safetensors: write to a closed writer")

// Writer writes the tensors of a [Layout] in any order and from any number of
// goroutines, and knows at the end whether every byte came exactly once.
type Writer struct {
	w io.WriterAt
	l *Layout

	mu      sync.Mutex
	written spanSet // of the file, after the header
	active  int     // calls of WriteAt under way
	err     error   // the first error; every later call returns it
	closed  bool
}

// NewWriter writes the header of l to w. Writing it first leaves, if the program
// dies, a file whose tensors are not all there: give it its final name only
// after Close.
func NewWriter(w io.WriterAt, l *Layout) (*Writer, error) {
	if err := writeFull(w, l.header, 0); err != nil {
		return nil, fmt.Errorf("safetensors: write header: %w", err)
	}
	return &Writer{w: w, l: l}, nil
}

// WriteAt writes p into the tensor, off bytes from its first. Bytes outside the
// tensor and bytes written before are errors. After any error, WriteAt and Close
// return that error, so that a file with a lost write cannot be taken for whole.
// WriteAt may be called from several goroutines if w allows it.
func (w *Writer) WriteAt(name string, p []byte, off int64) error {
	abs, err := w.reserve(name, int64(len(p)), off)
	if err != nil {
		return err
	}
	if len(p) > 0 {
		if err = writeFull(w.w, p, abs); err != nil {
			err = fmt.Errorf("safetensors: write tensor %s: %w", quote(name), err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active--
	if err != nil && w.err == nil {
		w.err = err
	}
	return err
}

// reserve checks a write and marks its bytes as written, before they are, so
// that of two overlapping writes only one reaches the file.
func (w *Writer) reserve(name string, n, off int64) (abs int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if w.closed {
		return 0, errClosed
	}
	defer func() { w.err = err }()
	at, size, ok := w.l.Offset(name)
	if !ok {
		return 0, fmt.Errorf("safetensors: write tensor %s: not in the layout", quote(name))
	}
	if off < 0 || off > size || n > size-off {
		return 0, fmt.Errorf("safetensors: write tensor %s: %d bytes at %d are outside its %d bytes", quote(name), n, off, size)
	}
	abs = at + off
	if n > 0 {
		if clash, ok := w.written.add(span{abs, abs + n}); !ok {
			return 0, fmt.Errorf("safetensors: write tensor %s: bytes %d to %d were written before", quote(name),
				max(clash.lo-at, off), min(clash.hi-at, off+n))
		}
	}
	w.active++
	return abs, nil
}

// Close reports whether the file is whole: it fails, naming the tensor, if a
// byte is missing. It must be called after every WriteAt has returned. It
// neither closes nor syncs the destination.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.closed {
		return w.err
	}
	w.closed = true
	if w.active > 0 {
		w.err = fmt.Errorf("safetensors: close: %d calls of WriteAt have not returned", w.active)
		return w.err
	}
	gap := w.written.firstGap(int64(len(w.l.header)), w.l.size)
	if gap != (span{}) {
		// The first tensor that ends after the gap begins holds it.
		i := sort.Search(len(w.l.tensors), func(i int) bool {
			return w.l.tensors[i].Offset+w.l.tensors[i].Size > gap.lo
		})
		t := &w.l.tensors[i]
		w.err = fmt.Errorf("safetensors: close: tensor %s: bytes %d to %d of %d were never written", quote(t.Name),
			gap.lo-t.Offset, min(gap.hi-t.Offset, t.Size), t.Size)
	}
	return w.err
}

// writeFull is w.WriteAt with a short write made into an error.
func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}
