package safetensors

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// What the reader and the writer share of the format.
const (
	lenSize       = 8           // bytes of the header length, uint64 little-endian
	maxHeaderSize = 100_000_000 // of the JSON with its padding, as the reference has it
	headerAlign   = 8           // the JSON is padded with spaces to a multiple of this
	metadataKey   = "__metadata__"

	// MaxTensors bounds the tensors of a file: each takes some hundreds of bytes in memory, whatever it takes in the file.
	// The most that is known to be in one is some 440,000: a mixture of 512 experts in 48 layers, quantized one by one
	// with five sidecars each.
	MaxTensors = 1 << 19

	maxRank = 64
	// maxMetadata bounds the keys of metadata, which at 11 bytes each would take
	// some 15 times their size in memory. Published files have hundreds at most.
	maxMetadata = 65_536
	// maxInt bounds every number of a header: up to it a JSON number is the
	// same integer to every reader, float64 ones included.
	maxInt = 1 << 53
)

// header is a decoded header: tensors in the order of their bytes.
type header struct {
	metadata map[string]string
	tensors  []*Tensor
	byName   map[string]*Tensor
}

// decodeHeader decodes and checks the JSON of a header, without its length,
// for a file that holds dataSize bytes after it.
func decodeHeader(buf []byte, dataSize int64) (*header, error) {
	h, err := newHeaderDecoder(buf).decode()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(h.tensors, func(a, b *Tensor) int {
		return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size), cmp.Compare(a.Name, b.Name))
	})
	if err := h.place(int64(lenSize+len(buf)), dataSize); err != nil {
		return nil, err
	}
	return h, nil
}

// place checks sizes and places against each other and against the dataSize
// bytes that follow the header, and makes the offsets absolute.
func (h *header) place(headerSize, dataSize int64) error {
	var end int64
	for i, t := range h.tensors {
		fail := func(format string, args ...any) error {
			return &FormatError{Tensor: t.Name, named: true, Offset: headerSize + t.off, Msg: fmt.Sprintf(format, args...)}
		}
		elems, size, err := sizeOf(t.DType, t.Shape)
		if err != nil {
			return fail("%v", err)
		}
		if size != t.size {
			return fail("%v of shape %v takes %d bytes, data_offsets [%d %d] give it %d", t.DType, t.Shape, size, t.off, t.off+t.size, t.size)
		}
		switch {
		case t.off < end:
			return fail("data_offsets [%d %d]: expected to begin at %d: it overlaps tensor %s", t.off, t.off+t.size, end, quote(h.tensors[i-1].Name))
		case t.off > end:
			return fail("data_offsets [%d %d]: expected to begin at %d: the gap belongs to no tensor", t.off, t.off+t.size, end)
		}
		end += t.size
		if end > dataSize {
			return fail("it ends at byte %d of the file, which has %d: the file is truncated", headerSize+end, headerSize+dataSize)
		}
		t.elems = elems
		t.off += headerSize
	}
	if end < dataSize {
		return &FormatError{Offset: headerSize + end, Msg: fmt.Sprintf("the tensors end at byte %d of the file, which has %d: the rest belongs to no tensor", headerSize+end, headerSize+dataSize)}
	}
	return nil
}

// sizeOf returns the elements and the bytes of a tensor. As in the reference, a
// product that overflows 64 bits is an error even if a later dimension is 0.
func sizeOf(d DType, shape []int64) (elems, size int64, err error) {
	n := uint64(1)
	for _, dim := range shape {
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 {
			return 0, 0, fmt.Errorf("the product of shape %v overflows 64 bits", shape)
		}
		n = lo
	}
	hi, nbits := bits.Mul64(n, uint64(d.Bits()))
	if hi != 0 {
		return 0, 0, fmt.Errorf("%v of shape %v overflows 64 bits", d, shape)
	}
	if nbits%8 != 0 {
		return 0, 0, fmt.Errorf("%v of shape %v takes %d bits, expected whole bytes", d, shape, nbits)
	}
	return int64(n), int64(nbits / 8), nil
}
