package stream

import "testing"

func TestPool(t *testing.T) {
	var p Pool[int32]
	p.Put(nil)
	if s := p.Get(0); len(s) != 0 {
		t.Errorf("Get(0): %d elements", len(s))
	}
	big := p.Get(100)
	p.Put(big)
	for _, c := range []struct {
		n    int
		same bool
	}{{100, true}, {70, true}, {50, true}, {49, false}, {101, false}} {
		got := p.Get(c.n)
		if len(got) != c.n {
			t.Fatalf("Get(%d): %d elements", c.n, len(got))
		}
		if same := &got[0] == &big[0]; same != c.same {
			t.Errorf("Get(%d) after a Put of 100: the same memory is %v, want %v", c.n, same, c.same)
		} else if same {
			p.Put(got)
		}
	}
}

// TestPoolOfMany: what was put first is let go of first.
func TestPoolOfMany(t *testing.T) {
	var p Pool[byte]
	var all [][]byte
	for i := range maxPooled + 3 {
		all = append(all, p.Get(1+i))
	}
	for _, s := range all {
		p.Put(s)
	}
	if len(p.free) != maxPooled || &p.free[0][0] != &all[3][0] {
		t.Errorf("%d slices are kept, want the last %d", len(p.free), maxPooled)
	}
}

func TestBuffers(t *testing.T) {
	var b Buffers
	first := b.Get(8)
	if second := b.Get(8); &first[0] == &second[0] {
		t.Fatal("one buffer was given twice")
	}
	b.Put(first)
	if again := b.Get(8); &again[0] != &first[0] {
		t.Error("a buffer that was put is not given again")
	}
}
