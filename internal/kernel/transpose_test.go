package kernel

import (
	"bytes"
	"fmt"
	"testing"
)

// TestTranspose compares with one element at a time, inside of larger matrices whose other bytes stay.
func TestTranspose(t *testing.T) {
	for _, size := range []int{1, 2, 4, 8} {
		for _, shape := range [][2]int64{{1, 1}, {1, 40}, {40, 1}, {15, 17}, {16, 16}, {17, 15}, {33, 70}} {
			for _, extra := range []int64{0, 3} {
				rows, cols := shape[0], shape[1]
				dstStride, srcStride, s := cols+extra, rows+2*extra, int64(size)
				src := make([]byte, cols*srcStride*s)
				for i := range src {
					src[i] = byte(i*31 + i>>8)
				}
				got := bytes.Repeat([]byte{0xee}, int(rows*dstStride*s))
				want := bytes.Clone(got)
				for r := range rows {
					for c := range cols {
						copy(want[(r*dstStride+c)*s:][:s], src[(c*srcStride+r)*s:])
					}
				}
				Transpose(got, dstStride, src, srcStride, rows, cols, size)
				if !bytes.Equal(got, want) {
					t.Errorf("%d x %d of %d bytes, %d beside them: other bytes", rows, cols, size, extra)
				}
			}
		}
	}
}

func BenchmarkTranspose(b *testing.B) {
	for _, size := range []int{2, 4} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			const rows, cols = 128, 4096
			src, dst := make([]byte, rows*cols*size), make([]byte, rows*cols*size)
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				Transpose(dst, cols, src, rows, rows, cols, size)
			}
		})
	}
}
