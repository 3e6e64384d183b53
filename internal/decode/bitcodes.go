package decode

import (
	"io"
	"sync"

	"github.com/nf4kit/nf4kit/internal/stream"
)

// bitCodes yields codes of fewer than 9 bits one in a byte, as two's complement. They lie in little-endian words, the
// first in the lowest bits, and cross words; a row is filled up to a word.
type bitCodes struct {
	name   string
	data   io.ReaderAt
	bits   int64
	cols   int64
	stride int64 // bytes a row
	end    int64 // elements
	offset byte  // subtracted
}

func newBitCodes(t *Tensor, cols int64, bits int, word int64) *bitCodes {
	b := &bitCodes{name: t.Name, data: t.Data, bits: int64(bits), cols: cols, stride: ceilDiv(cols*int64(bits), 8*word) * word,
		offset: 1 << (bits - 1)}
	b.end = elems(t.Shape[:len(t.Shape)-1]) * cols
	if b.stride*8 == cols*b.bits { // no gap between rows: they are one
		b.cols, b.stride = b.end, b.end*b.bits/8
	}
	return b
}

// bitBuffers hold packed codes on their way.
var bitBuffers = sync.Pool{New: func() any { return new([1 << 16]byte) }}

func (b *bitCodes) ReadAt(p []byte, off int64) (n int, err error) {
	buf := bitBuffers.Get().(*[1 << 16]byte)
	defer bitBuffers.Put(buf)
	for n < len(p) && off < b.end {
		row, col := off/b.cols, off%b.cols
		k := min(int64(len(p)-n), b.cols-col, int64(len(buf)-2)*8/b.bits)
		first, last := col*b.bits/8, ((col+k)*b.bits-1)/8
		raw := buf[:last-first+1]
		if err := stream.ReadFull(b.data, raw, row*b.stride+first); err != nil {
			return n, err
		}
		b.unpack(p[n:][:k], buf, uint(col*b.bits%8), len(raw))
		n, off = n+int(k), off+k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// unpack spreads the codes that begin at a bit of buf, which holds size bytes.
func (b *bitCodes) unpack(dst []byte, buf *[1 << 16]byte, bit uint, size int) {
	mask := byte(1<<b.bits - 1)
	switch {
	case b.bits == 8:
		for i, c := range buf[:len(dst)] {
			dst[i] = c - b.offset
		}
		return
	case b.bits == 4 && bit == 0:
		for i := 0; i+1 < len(dst); i += 2 {
			c := buf[i/2]
			dst[i], dst[i+1] = c&15-b.offset, c>>4-b.offset
		}
		if i := len(dst) - 1; len(dst)%2 == 1 {
			dst[i] = buf[i/2]&15 - b.offset
		}
		return
	}
	buf[size] = 0 // the last code may end with its byte
	for i := range dst {
		at := bit / 8
		dst[i] = byte((uint16(buf[at])|uint16(buf[at+1])<<8)>>(bit%8))&mask - b.offset
		bit += uint(b.bits)
	}
}
