package stream

import (
	"bytes"
	"io"
)

// ReadFull fills p from off on. A source that ends before is an error: io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Same reports whether two readers have the same n bytes. An error is the reader's own.
func Same(a, b io.ReaderAt, n int64) (bool, error) {
	const most = 256 << 10
	p := make([]byte, min(n, most))
	q := make([]byte, len(p))
	for off := int64(0); off < n; off += most {
		p, q = p[:min(n-off, most)], q[:min(n-off, most)]
		if err := ReadFull(a, p, off); err != nil {
			return false, err
		}
		if err := ReadFull(b, q, off); err != nil {
			return false, err
		}
		if !bytes.Equal(p, q) {
			return false, nil
		}
	}
	return true, nil
}
