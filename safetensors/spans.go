package safetensors

import "slices"

// span is the bytes from lo up to, not including, hi.
type span struct{ lo, hi int64 }

// spanBlock is the most spans kept in one block of a spanSet.
const spanBlock = 256

// spanSet is a set of bytes as disjoint spans, neighbours that touch merged into
// one. Spans are kept in order in blocks of bounded length, so that adding
// costs a binary search and a move within one block however many spans there
// are, while the common case, few writers each going forward, is a few spans.
// No block is empty. The zero value is an empty set.
type spanSet struct {
	blocks [][]span
}

// find returns the position of the first span that ends at or after lo, which is
// one past the last span of the set if there is none.
func (s *spanSet) find(lo int64) (b, i int) {
	b, _ = slices.BinarySearchFunc(s.blocks, lo, func(blk []span, lo int64) int {
		if blk[len(blk)-1].hi < lo {
			return -1
		}
		return 1
	})
	if b == len(s.blocks) {
		return b, 0
	}
	i, _ = slices.BinarySearchFunc(s.blocks[b], lo, func(sp span, lo int64) int {
		if sp.hi < lo {
			return -1
		}
		return 1
	})
	return b, i
}

// next returns the position after b, i.
func (s *spanSet) next(b, i int) (int, int) {
	if i+1 < len(s.blocks[b]) {
		return b, i + 1
	}
	return b + 1, 0
}

// add puts n into the set. If it shares a byte with a span that is there, the
// set stays as it was and that span is returned with false. n must not be empty.
func (s *spanSet) add(n span) (clash span, ok bool) {
	b, i := s.find(n.lo)
	if b == len(s.blocks) {
		s.insert(b-1, n)
		return span{}, true
	}
	left := &s.blocks[b][i] // ends at n.lo or later
	if left.hi > n.lo {
		if left.lo < n.hi {
			return *left, false
		}
		if left.lo == n.hi {
			left.lo = n.lo
			return span{}, true
		}
		s.insertAt(b, i, n)
		return span{}, true
	}
	// left ends exactly where n begins; what follows it decides.
	rb, ri := s.next(b, i)
	if rb < len(s.blocks) {
		right := s.blocks[rb][ri]
		if right.lo < n.hi {
			return right, false
		}
		if right.lo == n.hi {
			left.hi = right.hi
			s.remove(rb, ri)
			return span{}, true
		}
	}
	left.hi = n.hi
	return span{}, true
}

// insert appends n, which comes after all there is, to block b, the last one.
func (s *spanSet) insert(b int, n span) {
	if b < 0 {
		s.blocks = append(s.blocks, []span{n})
		return
	}
	s.insertAt(b, len(s.blocks[b]), n)
}

// insertAt puts n before position b, i and halves the block if it is full.
func (s *spanSet) insertAt(b, i int, n span) {
	blk := slices.Insert(s.blocks[b], i, n)
	s.blocks[b] = blk
	if len(blk) > spanBlock {
		half := len(blk) / 2
		s.blocks[b] = blk[:half:half]
		s.blocks = slices.Insert(s.blocks, b+1, slices.Clone(blk[half:]))
	}
}

func (s *spanSet) remove(b, i int) {
	if len(s.blocks[b]) == 1 {
		s.blocks = slices.Delete(s.blocks, b, b+1)
		return
	}
	s.blocks[b] = slices.Delete(s.blocks[b], i, i+1)
}

// firstGap returns the first span of [lo, hi) that is not in the set, or an
// empty span if all is.
func (s *spanSet) firstGap(lo, hi int64) span {
	// Spans do not touch, so the one that holds lo ends where a gap begins.
	b, i := s.find(lo)
	if b < len(s.blocks) && s.blocks[b][i].lo <= lo {
		lo = s.blocks[b][i].hi
		b, i = s.next(b, i)
	}
	if lo >= hi {
		return span{}
	}
	if b < len(s.blocks) {
		hi = min(hi, s.blocks[b][i].lo)
	}
	return span{lo, hi}
}
