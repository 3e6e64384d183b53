package stream

import (
	"slices"
	"sync"
)

// InOrder hands the parts of a sequence to Take in their order, in whichever they come: a sum of
// floats depends on it. A part that comes before its turn is copied and waits; workers that take parts
// in order keep few waiting.
type InOrder[T any] struct {
	Take func(part []T)

	mu      sync.Mutex
	next    int
	waiting map[int][]T
}

// Put gives part i, of which there is one. It is not kept.
func (o *InOrder[T]) Put(i int, part []T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i != o.next {
		if o.waiting == nil {
			o.waiting = map[int][]T{}
		}
		o.waiting[i] = slices.Clone(part)
		return
	}
	for ok := true; ok; part, ok = o.waiting[o.next] {
		delete(o.waiting, o.next)
		o.Take(part)
		o.next++
	}
}
