package checkpoint

import (
	"errors"
	"fmt"

	"github.com/nf4kit/nf4kit/safetensors"
)

// ShardWriter writes one safetensors file of an Output.
type ShardWriter struct {
	f *File
	w *safetensors.Writer
}

// CreateShard makes the file name with the size and header of l.
func (o *Output) CreateShard(name string, l *safetensors.Layout) (*ShardWriter, error) {
	f, err := o.CreateFile(name, l.Size())
	if err != nil {
		return nil, err
	}
	w, err := safetensors.NewWriter(f, l)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), f.discard())
	}
	return &ShardWriter{f: f, w: w}, nil
}

// WriteAt writes p into the tensor, off bytes from its first. It may be called from several goroutines.
func (s *ShardWriter) WriteAt(tensor string, p []byte, off int64) error {
	if err := s.w.WriteAt(tensor, p, off); err != nil {
		return fmt.Errorf("write %s: %w", s.f.rel, err)
	}
	return nil
}

// ReadAt reads back what has been written to the file, header included: off counts from the beginning of the file. It
// may be called from several goroutines, for ranges whose WriteAt has returned.
func (s *ShardWriter) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off) }

// Close checks that every byte of every tensor was written once and puts the file on the disk.
func (s *ShardWriter) Close() error {
	if err := s.w.Close(); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", s.f.rel, err), s.f.discard())
	}
	return s.f.Close()
}
