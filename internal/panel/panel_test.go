package panel

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// TestCache: what is held is filled once, and never more than there is room for, whoever asks.
func TestCache(t *testing.T) {
	const room = 4
	c := NewCache(Bytes / room)
	var fills [3]atomic.Int64
	read := func(key int) error {
		p, err := c.Acquire(key, 8, func(data []byte) error {
			fills[key].Add(1)
			data[7] = byte(key)
			return nil
		})
		if err != nil {
			return err
		}
		defer c.Release(p)
		if len(p.Data) != 8 || p.Data[7] != byte(key) {
			return errors.New("another panel")
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 50 {
				if err := read(i % len(fills)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for key := range fills {
		if n := fills[key].Load(); n != 1 {
			t.Errorf("panel %d is filled %d times", key, n)
		}
	}
	if n, held := c.Held(); n != len(fills) || held != 0 {
		t.Errorf("%d panels, %d of them held", n, held)
	}
	for i := range 2 * room {
		p, err := c.Acquire([1]int{i}, 1, func([]byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		c.Release(p)
	}
	if n, _ := c.Held(); n != room {
		t.Errorf("%d panels, want %d", n, room)
	}
}

// TestFailure: a panel that could not be filled is filled by the next who asks.
func TestFailure(t *testing.T) {
	c := NewCache(Bytes)
	bad := errors.New("bad")
	if _, err := c.Acquire(1, 4, func([]byte) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	p, err := c.Acquire(1, 4, func(data []byte) error { data[0] = 5; return nil })
	if err != nil || p.Data[0] != 5 {
		t.Errorf("%v, %v", p, err)
	}
}
