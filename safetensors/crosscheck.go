package safetensors

import (
	"crypto/sha256"
	"fmt"
	"slices"

	upstream "github.com/nlpodyssey/safetensors"
)

// crossCheckLimit bounds what a second reading of a header costs, up to 20
// times its bytes in memory; shards of published models have headers far below.
const crossCheckLimit = 4 << 20

// CrossCheck reads the header from the file again, has a second, independent
// decoder read it and compares, so that a file which two readers may take
// differently is found. [NewReader] does without: what could be taken
// differently, such as a name that appears twice, it refuses by its own rules.
//
// A header over 4 MiB, or with a dtype that the second decoder does not list
// (all F8, F6, F4 and C64), is not compared. That decoder,
// nlpodyssey/safetensors, cannot be the one that decides: besides, it keeps the
// last of duplicate names without a word, picks its first error by map order and
// names neither tensor nor place, checks offsets only against a buffer that
// holds the whole file, and takes several times as long and as much memory
// (BenchmarkUpstream).
func (r *Reader) CrossCheck() error {
	if r.headerSize-lenSize > crossCheckLimit {
		return nil
	}
	buf := make([]byte, r.headerSize)
	err := readHeader(r.r, buf, 0)
	if err == nil && sha256.Sum256(buf) != r.digest {
		err = &FormatError{Offset: 0, Msg: "the header is no longer what it was when the file was opened"}
	}
	if err == nil {
		err = r.h.crossCheck(buf[lenSize:])
	}
	setFile(err, r.name)
	return err
}

func (h *header) crossCheck(buf []byte) error {
	for _, t := range h.tensors {
		if _, err := upstream.ParseDType(t.DType.String()); err != nil {
			return nil
		}
	}
	var m upstream.Metadata
	if err := m.UnmarshalJSON(buf); err != nil {
		return &FormatError{Offset: -1, Msg: fmt.Sprintf("a second decoder refuses the header: %v", err)}
	}
	tensors := m.Tensors()
	base := int64(lenSize + len(buf))
	same := len(tensors) == len(h.tensors) && len(m.Metadata()) == len(h.metadata)
	for k, v := range m.Metadata() {
		w, ok := h.metadata[k]
		same = same && ok && v == w
	}
	if !same {
		return &FormatError{Offset: -1, Msg: "two decoders read different headers"}
	}
	for _, t := range h.tensors {
		u := tensors[t.Name]
		same := u != nil && u.DType.String() == t.DType.String() &&
			u.DataOffsets == [2]uint64{uint64(t.off - base), uint64(t.off - base + t.size)} &&
			slices.EqualFunc(u.Shape, t.Shape, func(a uint64, b int64) bool { return a == uint64(b) })
		if !same {
			return &FormatError{Tensor: t.Name, named: true, Offset: -1, Msg: "two decoders read different entries"}
		}
	}
	return nil
}
