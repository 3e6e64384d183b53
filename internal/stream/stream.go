// Package stream runs the tasks of many tensors on a fixed number of workers, with the tensors in flight bounded in
// number and in bytes.
//
// A tensor is worked on by its own function, which hands sets of tasks to the workers and goes on when a set is done:
// one huge tensor keeps every worker busy, and so do many small ones. What a task computes must not depend on the worker
// or on the time it runs, and results are to be stored by task number; then nothing depends on how many workers there
// are. The error returned is that of the first tensor and of its first task that failed, whatever ran first.
package stream

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
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

// Each runs task 0 to n-1 on the workers, waits for all of them and returns the error of the lowest that failed. After
// a failure later tasks may not have run.
type Each[W any] func(n int, task func(w W, i int) error) error

// Run calls do for tensors 0 to n-1, starting them in order. cost is what a tensor holds in memory while do runs; one
// above the budget runs alone. newWorker makes the scratch memory of one worker. Run returns when everything has ended.
func Run[W any](ctx context.Context, o Options, newWorker func() W, n int, cost func(i int) int64, do func(i int, each Each[W]) error) error {
	if err := o.Validate(); err != nil {
		return err
	}
	jobs := o.Workers()
	r := &runner[W]{ctx: ctx, calls: make(chan func(W))}
	var workers, tensors sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			w := newWorker()
			for call := range r.calls {
				call(w)
			}
		})
	}
	// Twice as many tensors as workers hide the ends of their stages behind each other.
	slots := semaphore.NewWeighted(int64(2 * jobs))
	memory := semaphore.NewWeighted(o.Budget())
	for i := range n {
		c := min(max(cost(i), 0), o.Budget())
		if memory.Acquire(ctx, c) != nil {
			break
		}
		if slots.Acquire(ctx, 1) != nil {
			memory.Release(c)
			break
		}
		if r.failed() {
			slots.Release(1)
			memory.Release(c)
			break
		}
		tensors.Go(func() {
			defer memory.Release(c)
			defer slots.Release(1)
			if err := do(i, r.each); err != nil {
				r.fail(i, err)
			}
		})
	}
	tensors.Wait()
	close(r.calls)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.err
}

type runner[W any] struct {
	ctx   context.Context
	calls chan func(W)

	mu    sync.Mutex
	err   error
	errAt int
}

func (r *runner[W]) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

func (r *runner[W]) fail(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil || i < r.errAt {
		r.err, r.errAt = err, i
	}
}

func (r *runner[W]) each(n int, task func(w W, i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	at := n
	for i := range n {
		if err := r.ctx.Err(); err != nil {
			wg.Wait()
			return err
		}
		mu.Lock()
		stop := first != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Add(1)
		r.calls <- func(w W) {
			defer wg.Done()
			if err := task(w, i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if i < at {
					first, at = err, i
				}
			}
		}
	}
	wg.Wait()
	return first
}
