package decode

import (
	"errors"
	"io"
)

// A decoder yields whole elements: n of them from first on, into dst, which they fill. It may use all of dst on the
// way.
type decoder interface {
	decode(dst []byte, first int64, n int) error
}

// elements gives a decoder the manners of an io.ReaderAt: any offset, any length, io.EOF at the end.
type elements struct {
	d    decoder
	size int   // bytes an element
	end  int64 // bytes in all
}

func newElements(d decoder, size int, count int64) *elements {
	return &elements{d: d, size: size, end: count * int64(size)}
}

// maxElemSize is the size of an F32.
const maxElemSize = 4

func (e *elements) ReadAt(p []byte, off int64) (n int, err error) {
	switch {
	case off < 0:
		return 0, errors.New("decode: negative offset")
	case off >= e.end:
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > e.end-off {
		p, eof = p[:e.end-off], io.EOF
	}
	size := int64(e.size)
	for n < len(p) {
		at := off + int64(n)
		k := (len(p) - n) / e.size
		if within := at % size; within != 0 || k == 0 {
			var one [maxElemSize]byte
			if err := e.d.decode(one[:e.size], at/size, 1); err != nil {
				return n, err
			}
			n += copy(p[n:], one[within:e.size])
			continue
		}
		if err := e.d.decode(p[n:n+k*e.size], at/size, k); err != nil {
			return n, err
		}
		n += k * e.size
	}
	return n, eof
}
