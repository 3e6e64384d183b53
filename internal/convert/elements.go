package convert

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

func kernelElem(d safetensors.DType) kernel.Elem {
	switch d {
	case safetensors.BF16:
		return kernel.BF16
	case safetensors.F16:
		return kernel.F16
	}
	return kernel.F32
}

func kernelType(t nf4.Type) kernel.Type {
	if t == nf4.FP4 {
		return kernel.FP4
	}
	return kernel.NF4
}

// narrowed presents a float64 tensor as float32, the way torch converts a
// double on its way to a 16-bit dtype.
type narrowed struct{ src io.ReaderAt }

func (r narrowed) ReadAt(p []byte, off int64) (int, error) {
	if off%4 != 0 || len(p)%4 != 0 {
		return 0, fmt.Errorf("convert: internal error: unaligned read of %d bytes at %d", len(p), off)
	}
	var buf [8192]byte
	for done := 0; done < len(p); {
		b := buf[:min(len(buf), 2*(len(p)-done))]
		if err := readFull(r.src, b, 2*(off+int64(done))); err != nil {
			return done, err
		}
		for i := 0; i < len(b); i += 8 {
			v := float32(math.Float64frombits(binary.LittleEndian.Uint64(b[i:])))
			binary.LittleEndian.PutUint32(p[done:], math.Float32bits(v))
			done += 4
		}
	}
	return len(p), nil
}

// transposed presents a part of a stored tensor as a matrix in its transpose,
// row-major: the [in, out] weight of a Conv1D as the [out, in] weight of a
// Linear, or one expert's half of a fused stack.
//
//	src  in x out          logical  out x in
//	     a b c d                     a e i
//	     e f g h       ->            b f j    <- a read of rows 1..2 takes the
//	     i j k l                     c g k       strip b c, f g, j k
//	                                 d h l
type transposed struct {
	src     io.ReaderAt
	in, out int64 // of the part
	stride  int64 // elements from a row of src to the next; out, if the part is all of the row
	first   int64 // element of src where the part begins
	size    int64 // bytes of an element
}

func (r transposed) ReadAt(p []byte, off int64) (int, error) {
	if off%r.size != 0 || int64(len(p))%r.size != 0 {
		return 0, fmt.Errorf("convert: internal error: unaligned read of %d bytes at %d", len(p), off)
	}
	if len(p) == 0 {
		return 0, nil
	}
	first := off / r.size
	end := first + int64(len(p))/r.size
	row0, row1 := first/r.in, (end-1)/r.in
	strip := make([]byte, (row1-row0+1)*r.size)
	for i := range r.in {
		if err := readFull(r.src, strip, (r.first+i*r.stride+row0)*r.size); err != nil {
			return 0, err
		}
		for row := row0; row <= row1; row++ {
			e := row*r.in + i
			if e < first || e >= end {
				continue
			}
			copy(p[(e-first)*r.size:][:r.size], strip[(row-row0)*r.size:])
		}
	}
	return len(p), nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
