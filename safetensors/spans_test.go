package safetensors

import (
	"math/rand/v2"
	"testing"
)

// check fails if s breaks its invariants or does not hold exactly the bytes of
// want that are true.
func (s *spanSet) check(t *testing.T, want []bool) {
	t.Helper()
	got := make([]bool, len(want))
	last := int64(-2)
	for _, blk := range s.blocks {
		if len(blk) == 0 || len(blk) > spanBlock {
			t.Fatalf("block of %d spans", len(blk))
		}
		for _, sp := range blk {
			if sp.lo >= sp.hi {
				t.Fatalf("empty span %v", sp)
			}
			if sp.lo <= last {
				t.Fatalf("span %v touches the one before, which ends at %d", sp, last)
			}
			last = sp.hi
			for i := sp.lo; i < sp.hi; i++ {
				got[i] = true
			}
		}
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("byte %d: in the set is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestSpanSet adds random spans and compares with an array of bytes.
func TestSpanSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int64{8, 100, 20_000} {
		for maxLen := int64(1); maxLen <= 64; maxLen *= 4 {
			var s spanSet
			model := make([]bool, size)
			for step := range 8000 {
				lo := rng.Int64N(size)
				n := span{lo, min(lo+1+rng.Int64N(maxLen), size)}
				free := true
				for i := n.lo; i < n.hi; i++ {
					free = free && !model[i]
				}
				clash, ok := s.add(n)
				if ok != free {
					t.Fatalf("add(%v) = %v, want %v", n, ok, free)
				}
				if !ok && (clash.hi <= n.lo || clash.lo >= n.hi) {
					t.Fatalf("add(%v) clashes with %v", n, clash)
				}
				if ok {
					for i := n.lo; i < n.hi; i++ {
						model[i] = true
					}
				}
				if step%500 == 0 {
					s.check(t, model)
				}
				glo := rng.Int64N(size)
				ghi := glo + rng.Int64N(size-glo+1)
				if got, want := s.firstGap(glo, ghi), gapOf(model, glo, ghi); step%100 == 0 && got != want {
					t.Fatalf("firstGap(%d, %d) = %v, want %v", glo, ghi, got, want)
				}
			}
			s.check(t, model)
		}
	}
}

func gapOf(model []bool, lo, hi int64) span {
	for lo < hi && model[lo] {
		lo++
	}
	end := lo
	for end < hi && !model[end] {
		end++
	}
	if lo == end {
		return span{}
	}
	return span{lo, end}
}

// TestSpanSetOrders fills in the orders that are best and worst, to the end.
func TestSpanSetOrders(t *testing.T) {
	const n = 40_000
	orders := map[string]func(i int) int{
		"ascending":        func(i int) int { return i },
		"descending":       func(i int) int { return n - 1 - i },
		"even, then odd":   func(i int) int { return i*2%n + i*2/n },
		"two from the end": func(i int) int { return i/2 + i%2*n/2 },
		"scattered":        func(i int) int { return i * 7919 % n },
	}
	for name, order := range orders {
		var s spanSet
		most := 0
		for i := range n {
			at := int64(order(i)) * 3
			if clash, ok := s.add(span{at, at + 3}); !ok {
				t.Fatalf("%s: %d clashes with %v", name, at, clash)
			}
			most = max(most, len(s.blocks))
		}
		if len(s.blocks) != 1 || len(s.blocks[0]) != 1 || s.blocks[0][0] != (span{0, 3 * n}) {
			t.Errorf("%s: %d blocks at the end", name, len(s.blocks))
		}
		if limit := n / spanBlock; most > 2*limit {
			t.Errorf("%s: %d blocks, at most %d are needed", name, most, limit)
		}
		if gap := s.firstGap(0, 3*n); gap != (span{}) {
			t.Errorf("%s: gap %v", name, gap)
		}
	}
}
