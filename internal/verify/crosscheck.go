package verify

import (
	"fmt"
	"slices"

	upstream "github.com/nlpodyssey/safetensors"

	"github.com/nf4kit/nf4kit/safetensors"
)

// crossCheckLimit bounds what a second reading of a header costs, up to 20 times its bytes in memory; shards of
// published models have headers far below.
const crossCheckLimit = 4 << 20

// crossCheck reads the header of a file again, has a second, independent decoder read it and compares, so that a file
// which two readers may take differently is found. Package safetensors does without: what could be taken differently,
// such as a name that appears twice, it refuses by its own rules.
//
// A header over 4 MiB, or with a dtype that the second decoder does not list (all F8, F6, F4 and C64), is not compared.
// That decoder, nlpodyssey/safetensors, cannot be the one that decides: besides, it keeps the last of duplicate names
// without a word, picks its first error by map order and names neither tensor nor place, checks offsets only against a
// buffer that holds the whole file, and takes several times as long and as much memory.
func crossCheck(r *safetensors.Reader) error {
	if r.HeaderSize() > crossCheckLimit {
		return nil
	}
	raw, err := r.ReadHeader()
	if err != nil {
		return err
	}
	h := headerRead{metadata: r.Metadata()}
	for _, t := range r.Tensors() {
		begin := t.Offset() - r.HeaderSize()
		h.tensors = append(h.tensors, entryRead{t.Name, t.DType, t.Shape, begin, begin + t.Size()})
	}
	return h.compare(raw)
}

// headerRead is what package safetensors read of a header.
type headerRead struct {
	metadata map[string]string
	tensors  []entryRead
}

type entryRead struct {
	name       string
	dtype      safetensors.DType
	shape      []int64
	begin, end int64 // in bytes, from the end of the header
}

// compare holds it against what the second decoder reads in the header's JSON.
func (h *headerRead) compare(raw []byte) error {
	for _, t := range h.tensors {
		if _, err := upstream.ParseDType(t.dtype.String()); err != nil {
			return nil
		}
	}
	var m upstream.Metadata
	if err := m.UnmarshalJSON(raw); err != nil {
		return fmt.Errorf("a second decoder refuses the header: %w", err)
	}
	tensors := m.Tensors()
	same := len(tensors) == len(h.tensors) && len(m.Metadata()) == len(h.metadata)
	for k, v := range m.Metadata() {
		w, ok := h.metadata[k]
		same = same && ok && v == w
	}
	if !same {
		return fmt.Errorf("two decoders read different headers")
	}
	for _, t := range h.tensors {
		u := tensors[t.name]
		same := u != nil && u.DType.String() == t.dtype.String() && u.DataOffsets == [2]uint64{uint64(t.begin), uint64(t.end)} &&
			slices.EqualFunc(u.Shape, t.shape, func(a uint64, b int64) bool { return a == uint64(b) })
		if !same {
			return fmt.Errorf("tensor %.256q: two decoders read different entries", t.name)
		}
	}
	return nil
}
