package stream

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
)

// Every index is in one part, whatever their number.
func TestParts(t *testing.T) {
	for n := range 20 {
		for jobs := range 25 {
			seen := make([]atomic.Int32, n)
			Parts(n, jobs, func(from, to int) {
				for i := from; i < to; i++ {
					seen[i].Add(1)
				}
			})
			for i := range seen {
				if got := seen[i].Load(); got != 1 {
					t.Errorf("%d of %d by %d jobs: in %d parts", i, n, jobs, got)
				}
			}
		}
	}
}

func TestSame(t *testing.T) {
	const n = 600 << 10 // two whole parts and a bit
	a := bytes.Repeat([]byte("0123456"), n/7+1)[:n]
	for _, at := range []int{-1, 0, 256<<10 - 1, 256 << 10, n - 1} {
		b := bytes.Clone(a)
		if at >= 0 {
			b[at] ^= 1
		}
		if same, err := Same(bytes.NewReader(a), bytes.NewReader(b), n); err != nil || same != (at < 0) {
			t.Errorf("other at %d: same is %v, error %v", at, same, err)
		}
	}
	if same, err := Same(bytes.NewReader(nil), bytes.NewReader(nil), 0); err != nil || !same {
		t.Errorf("of nothing: same is %v, error %v", same, err)
	}
	if _, err := Same(bytes.NewReader(a), bytes.NewReader(a[:n-1]), n); err != io.ErrUnexpectedEOF {
		t.Errorf("one that is short: error %v", err)
	}
}
