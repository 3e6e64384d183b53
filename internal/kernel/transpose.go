package kernel

import "encoding/binary"

// Transpose writes the transpose of src to dst: element (c, r) of src becomes (r, c) of dst, which has rows of cols elements.
// Rows of either begin stride elements apart, and an element takes size bytes: 1, 2, 4 or 8.
//
// It goes by tiles, turned in memory of its own: rows are often a power of two apart, and then of more than eight of them no
// two lines fit the first cache.
func Transpose(dst []byte, dstStride int64, src []byte, srcStride int64, rows, cols int64, size int) {
	const side = 16
	var tile [side * side * 8]byte
	s := int64(size)
	for r0 := int64(0); r0 < rows; r0 += side {
		h := min(side, rows-r0)
		for c0 := int64(0); c0 < cols; c0 += side {
			w := min(side, cols-c0)
			for c := range w {
				turnStrip(tile[c*s:], side*s, src[((c0+c)*srcStride+r0)*s:][:h*s], size)
			}
			for r := range h {
				copy(dst[((r0+r)*dstStride+c0)*s:][:w*s], tile[r*side*s:])
			}
		}
	}
}

// turnStrip writes the elements of src step bytes apart.
func turnStrip(dst []byte, step int64, src []byte, size int) {
	at := int64(0)
	switch size {
	case 2:
		for ; len(src) >= 2; src, at = src[2:], at+step {
			binary.LittleEndian.PutUint16(dst[at:], binary.LittleEndian.Uint16(src))
		}
	case 4:
		for ; len(src) >= 4; src, at = src[4:], at+step {
			binary.LittleEndian.PutUint32(dst[at:], binary.LittleEndian.Uint32(src))
		}
	case 8:
		for ; len(src) >= 8; src, at = src[8:], at+step {
			binary.LittleEndian.PutUint64(dst[at:], binary.LittleEndian.Uint64(src))
		}
	default:
		for i, b := range src {
			dst[int64(i)*step] = b
		}
	}
}
