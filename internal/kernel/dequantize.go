package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// dequantizeGeneric is the specification of Dequantize. Every element of a block is one of 16 products, so those are
// computed and rounded once a block.
func dequantizeGeneric(t Type, e Elem, dst []byte, codes []byte, absmax []float32, n int, blockSize int) {
	size := e.Size()
	for b, a := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, n)
		out := dst[lo*size : hi*size]
		in := codes[lo/2 : (hi+1)/2]
		switch e {
		case F32:
			var w [16]uint32
			for c, v := range &books[t].value {
				w[c] = math.Float32bits(v * a)
			}
			for i := 0; len(out) >= 8; i, out = i+1, out[8:] {
				binary.LittleEndian.PutUint64(out, uint64(w[in[i]>>4])|uint64(w[in[i]&15])<<32)
			}
			if len(out) > 0 {
				binary.LittleEndian.PutUint32(out, w[in[len(in)-1]>>4])
			}
		case BF16, F16:
			var w [16]uint16
			for c, v := range &books[t].value {
				if e == BF16 {
					w[c] = f32ToBF16(v * a)
				} else {
					w[c] = f32ToF16(v * a)
				}
			}
			for i := 0; len(out) >= 4; i, out = i+1, out[4:] {
				binary.LittleEndian.PutUint32(out, uint32(w[in[i]>>4])|uint32(w[in[i]&15])<<16)
			}
			if len(out) > 0 {
				binary.LittleEndian.PutUint16(out, w[in[len(in)-1]>>4])
			}
		default:
			panic(fmt.Sprintf("kernel: %v is no run dtype", e))
		}
	}
}

// dequantizeF32Generic is the specification of DequantizeF32.
func dequantizeF32Generic(t Type, dst []float32, codes []byte, absmax []float32, blockSize int) {
	for b, a := range absmax {
		lo, hi := b*blockSize, min((b+1)*blockSize, len(dst))
		var w [16]float32
		for c, v := range &books[t].value {
			w[c] = v * a
		}
		out := dst[lo:hi]
		in := codes[lo/2 : (hi+1)/2]
		for i := 0; len(out) >= 2; i, out = i+1, out[2:] {
			out[0], out[1] = w[in[i]>>4], w[in[i]&15]
		}
		if len(out) > 0 {
			out[0] = w[in[len(in)-1]>>4]
		}
	}
}
