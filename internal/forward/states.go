package forward

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

// States are the hidden states of sequences of tokens, one row for each token, sequence after sequence: in memory, or beyond
// a quarter of the budget in a file that has no name any more.
type States struct {
	ids    [][]int32
	starts []int // row of each sequence's first token, and of the end
	width  int
	data   []float32
	file   *os.File
	buf    []byte
}

// newStates makes room for the states of sequences.
func newStates(sequences [][]int32, width int, opt Options) (*States, error) {
	s := &States{ids: sequences, starts: make([]int, len(sequences)+1), width: width}
	for i, ids := range sequences {
		s.starts[i+1] = s.starts[i] + len(ids)
	}
	if size := 4 * int64(s.Rows()) * int64(width); size <= opt.memory()/4 {
		s.data = make([]float32, s.Rows()*width)
		return s, nil
	}
	f, err := os.CreateTemp(opt.Scratch, "nf4kit-states-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for hidden states: %w", err)
	}
	s.file = f
	os.Remove(f.Name()) // where an open file cannot go, Close removes it
	return s, nil
}

// Close lets go of the memory or file.
func (s *States) Close() error {
	s.data = nil
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	os.Remove(filepath.Clean(s.file.Name()))
	s.file = nil
	return err
}

// Rows is the number of tokens of all sequences.
func (s *States) Rows() int { return s.starts[len(s.starts)-1] }

// Sequences is the number of sequences.
func (s *States) Sequences() int { return len(s.ids) }

// Sequence is the rows of a sequence, the upper end excluded.
func (s *States) Sequence(i int) (first, end int) { return s.starts[i], s.starts[i+1] }

// Read fills dst with whole rows from row on.
func (s *States) Read(dst []float32, row int) error {
	if s.file == nil {
		copy(dst, s.data[row*s.width:][:len(dst)])
		return nil
	}
	return s.pieces(len(dst), row, func(at int, b []byte, off int64) error {
		if _, err := s.file.ReadAt(b, off); err != nil {
			return fmt.Errorf("read hidden states: %w", err)
		}
		for i := range len(b) / 4 {
			dst[at+i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return nil
	})
}

// write replaces whole rows from row on.
func (s *States) write(src []float32, row int) error {
	if s.file == nil {
		copy(s.data[row*s.width:], src)
		return nil
	}
	return s.pieces(len(src), row, func(at int, b []byte, off int64) error {
		for i := range len(b) / 4 {
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(src[at+i]))
		}
		if _, err := s.file.WriteAt(b, off); err != nil {
			return fmt.Errorf("write hidden states to %s: %w", filepath.Dir(s.file.Name()), err)
		}
		return nil
	})
}

// pieces calls do for n elements from row on, by as many at a time as the buffer holds.
func (s *States) pieces(n, row int, do func(at int, b []byte, off int64) error) error {
	const piece = 1 << 16
	if s.buf == nil {
		s.buf = make([]byte, 4*piece)
	}
	for at := 0; at < n; at += piece {
		if err := do(at, s.buf[:4*min(piece, n-at)], 4*(int64(row)*int64(s.width)+int64(at))); err != nil {
			return err
		}
	}
	return nil
}
