// Package stream runs the tasks of many tensors on a fixed number of workers, with the tensors in
// flight bounded in number and in bytes.
//
// A tensor is worked on by its own function, which hands sets of tasks to the workers and goes on
// when a set is done: one huge tensor keeps every worker busy, and so do many small ones.
//
//	tensor 0   [t0 t1 t2 t3] -> [t0] -> [t0 t1 t2 t3]
//	tensor 1   [t0] -> [t0] -> [t0]
//
// Workers take the first task that is ready in the order of the tensors, and another tensor begins
// only when there is none: reading ahead and digests rely on it. What a task computes must not
// depend on the worker or on the time it runs, and results are to be stored by task number; then
// nothing depends on how many workers there are. The error returned is that of the first tensor and
// of its first task that failed, whatever ran first.
package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// Options bound the work. The zero value is one worker a processor and 512 MiB.
type Options struct {
	Jobs   int   // workers; 0: one a processor, but so few that half of the memory is left for tensors
	Memory int64 // bytes, for everything; 0: DefaultMemory
}

// DefaultMemory is the bound on memory, in bytes.
const DefaultMemory = 512 << 20

// What is not there for tensors, in bytes.
const (
	baseMemory   = 8 << 20 // plans, headers and the runtime
	workerMemory = 4 << 20 // a worker's own
)

// LeastMemory is what a number of workers needs, in bytes.
func LeastMemory(jobs int) int64 { return baseMemory + int64(jobs)*workerMemory }

// Validate reports an option that is out of range.
func (o Options) Validate() error {
	if o.Jobs < 0 {
		return fmt.Errorf("jobs: expected 0 or more, found %d", o.Jobs)
	}
	if o.Memory < 0 {
		return fmt.Errorf("memory: expected 0 or more bytes, found %d", o.Memory)
	}
	// More jobs than this need more memory than there is, in a sum that does not overflow.
	if need := LeastMemory(min(o.Workers(), 1<<30)); o.memory() < need {
		return fmt.Errorf("max memory of %d bytes: %d jobs need at least %d MiB", o.memory(), o.Workers(), need>>20)
	}
	return nil
}

func (o Options) memory() int64 {
	if o.Memory > 0 {
		return o.Memory
	}
	return DefaultMemory
}

// Workers is the number of workers that o stands for.
func (o Options) Workers() int {
	if o.Jobs > 0 {
		return o.Jobs
	}
	fit := (o.memory() - baseMemory) / (2 * workerMemory)
	return int(max(1, min(fit, int64(runtime.GOMAXPROCS(0)))))
}

// Budget is the number of bytes that the tensors in flight may hold.
func (o Options) Budget() int64 { return o.memory() - LeastMemory(o.Workers()) }

// Each runs task 0 to n-1 on the workers, waits for all of them and returns the error of the lowest
// that failed. After a failure later tasks may not have run.
type Each[W any] func(n int, task func(w W, i int) error) error

// Run calls do for tensors 0 to n-1, starting them in order. cost is what a tensor holds in memory
// while do runs; one above the budget runs alone. newWorker makes the scratch memory of one worker,
// before its first task: many jobs cost nothing where there is little to do.
// Run returns when everything has ended.
func Run[W any](ctx context.Context, o Options, newWorker func() W, n int, cost func(i int) int64, do func(i int, each Each[W]) error) error {
	if err := o.Validate(); err != nil {
		return err
	}
	jobs := o.Workers()
	r := &runner[W]{ctx: ctx, n: n, cost: cost, do: do, budget: o.Budget(), most: max(2, jobs), errAt: n}
	r.wake.L = &r.mu
	stop := context.AfterFunc(ctx, func() { // for workers that wait
		r.mu.Lock()
		defer r.mu.Unlock()
		r.settleAll()
	})
	defer stop()
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() { r.work(newWorker) })
	}
	workers.Wait()
	r.tensors.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.err
}

type runner[W any] struct {
	ctx    context.Context
	n      int
	cost   func(int) int64
	do     func(int, Each[W]) error
	budget int64
	// most is how many tensors are in flight. As many as there are workers keep all of them busy: a tensor whose set is all given
	// out has a worker on it, so either each tensor has one or a task is ready. More would only hold more memory.
	most int

	tensors sync.WaitGroup

	mu     sync.Mutex
	wake   sync.Cond
	next   int   // first tensor that has not begun
	active int   // tensors that have begun and not ended
	fresh  int   // of them, those without a first set
	used   int64 // what the active ones cost
	sets   []*set[W]
	err    error
	errAt  int // the tensor of err; n without one
}

// A set is what one call of an Each was given.
type set[W any] struct {
	tensor              int
	n, issued, finished int
	task                func(W, int) error
	err                 error
	errAt               int
	done                chan struct{}
}

// errStopped ends the function of a tensor behind one that failed. It is never reported.
var errStopped = errors.New("stopped, since another tensor failed")

func (r *runner[W]) work(newWorker func() W) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var w W
	for made := false; ; made = true {
		s := r.take()
		if s == nil {
			return
		}
		i := s.issued
		s.issued++
		r.mu.Unlock()
		if !made {
			w = newWorker()
		}
		err := s.task(w, i)
		r.mu.Lock()
		s.finished++
		if err != nil && (s.err == nil || i < s.errAt) {
			s.err, s.errAt = err, i
		}
		r.settle(s)
	}
}

// take returns the first set with a task to run, or nil when there will be none. It begins further
// tensors where nothing else is to be done, and waits. r.mu is held.
func (r *runner[W]) take() *set[W] {
	for {
		for _, s := range r.sets {
			if s.issued < s.n && !r.stopped(s) {
				return s
			}
		}
		if r.next == r.n || r.failed() {
			if r.active == 0 {
				return nil
			}
		} else if r.active < r.most && r.fresh == 0 && r.begin() {
			continue
		}
		r.wake.Wait()
	}
}

func (r *runner[W]) failed() bool { return r.err != nil || r.ctx.Err() != nil }

// stopped reports whether no more tasks of s are to begin.
func (r *runner[W]) stopped(s *set[W]) bool {
	return s.err != nil || s.tensor > r.errAt || r.ctx.Err() != nil
}

// begin starts the next tensor if its memory is there.
func (r *runner[W]) begin() bool {
	i := r.next
	c := min(max(r.cost(i), 0), r.budget)
	if r.active > 0 && r.used+c > r.budget {
		return false
	}
	r.next++
	r.active++
	r.fresh++
	r.used += c
	r.tensors.Go(func() {
		fresh := true
		err := r.do(i, func(n int, task func(W, int) error) error {
			r.mu.Lock()
			if fresh {
				fresh = false
				r.fresh--
			}
			return r.each(i, n, task)
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		if fresh {
			r.fresh--
		}
		r.active--
		r.used -= c
		if err != nil && i < r.errAt {
			r.err, r.errAt = err, i
		}
		r.settleAll()
	})
	return true
}

// each is called with r.mu held and returns without.
func (r *runner[W]) each(tensor, n int, task func(W, int) error) error {
	s := &set[W]{tensor: tensor, n: n, task: task, done: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(r.sets, tensor, func(s *set[W], t int) int { return s.tensor - t })
	r.sets = slices.Insert(r.sets, at, s)
	if !r.settle(s) {
		r.wake.Broadcast()
	}
	r.mu.Unlock()
	<-s.done
	switch {
	case s.err != nil:
		return s.err
	case s.finished == n:
		return nil
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	}
	return errStopped
}

// settle ends a set of which no task runs and none will.
func (r *runner[W]) settle(s *set[W]) bool {
	if s.finished < s.issued || s.issued < s.n && !r.stopped(s) {
		return false
	}
	i := slices.Index(r.sets, s)
	r.sets = slices.Delete(r.sets, i, i+1)
	close(s.done)
	return true
}

// settleAll follows a tensor's end, a failure or the end of the context.
func (r *runner[W]) settleAll() {
	for _, s := range slices.Clone(r.sets) {
		r.settle(s)
	}
	r.wake.Broadcast()
}
