package convert

import (
	"context"
	"fmt"
	"sync"
)

// The engine runs jobs (one a tensor) on a fixed number of workers.
//
// A job is a list of stages and a stage a list of independent tasks, so one
// huge tensor keeps every worker busy and so do many small ones:
//
//	job 0   [t0 t1 t2 t3] -> [t0] -> [t0 t1 t2 t3]
//	job 1   [t0] -> [t0] -> [t0]
//	        quantize      double     measure
//	                      quantize
//
// Workers take the first task that is ready in the order of the jobs, and admit
// the next job only while the memory of the admitted ones stays within the
// budget: the queue is bounded by bytes. Nothing a task computes depends on which
// worker runs it, nor when.
type engine struct {
	workers int
	budget  int64
	ctx     context.Context

	mu     sync.Mutex
	wake   sync.Cond
	jobs   []*job
	next   int    // first job not yet admitted
	active []*job // admitted, not finished, in order
	used   int64  // sum of the costs of the active jobs
	err    error
	errAt  position
}

// A job is the work on one tensor.
type job struct {
	name   string
	cost   int64 // bytes held from admission to the end
	stages []stage
	end    func() // releases what the job holds; called once, also after an error

	index               int
	stage               int
	n, issued, finished int
}

// A stage is a set of tasks that may run at the same time. prepare runs alone,
// after the previous stage, and says how many tasks there are.
type stage struct {
	prepare func() (int, error)
	run     func(w *worker, task int) error
}

// position orders tasks; when several fail, the first in this order is the one
// reported, whatever the number of workers.
type position struct{ job, stage, task int }

func (p position) before(q position) bool {
	if p.job != q.job {
		return p.job < q.job
	}
	if p.stage != q.stage {
		return p.stage < q.stage
	}
	return p.task < q.task
}

func (e *engine) run(ctx context.Context, jobs []*job, newWorker func() *worker) error {
	e.wake.L = &e.mu
	e.ctx, e.jobs = ctx, jobs
	for i, j := range jobs {
		j.index = i
	}
	stop := context.AfterFunc(ctx, func() { // for workers that wait
		e.mu.Lock()
		defer e.mu.Unlock()
		e.wake.Broadcast()
	})
	defer stop()
	var wg sync.WaitGroup
	for range e.workers {
		wg.Go(func() { e.work(newWorker()) })
	}
	wg.Wait()
	for _, j := range e.active {
		j.close()
	}
	return e.err
}

func (e *engine) work(w *worker) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		j, task := e.take()
		if j == nil {
			return
		}
		at := position{j.index, j.stage, task}
		run := j.stages[j.stage].run
		e.mu.Unlock()
		err := run(w, task)
		e.mu.Lock()
		if err != nil {
			e.fail(at, fmt.Errorf("%s: %w", j.name, err))
		}
		j.finished++
		if j.finished == j.n {
			e.advance(j)
		}
		e.wake.Broadcast()
	}
}

// take returns the next task, or nil when there will be none. It is called and
// returns with e.mu held, and waits for work.
func (e *engine) take() (*job, int) {
	for {
		if err := e.ctx.Err(); err != nil {
			e.fail(position{job: -1}, err)
		}
		for _, j := range e.active {
			if j.issued == j.n || (e.err != nil && !(position{j.index, j.stage, j.issued}).before(e.errAt)) {
				continue
			}
			j.issued++
			return j, j.issued - 1
		}
		if e.err == nil && e.next < len(e.jobs) && (len(e.active) == 0 || e.used+e.jobs[e.next].cost <= e.budget) {
			j := e.jobs[e.next]
			e.next++
			e.used += j.cost
			e.active = append(e.active, j)
			j.stage = -1
			e.advance(j)
			continue
		}
		if !e.pending() {
			return nil, 0
		}
		e.wake.Wait()
	}
}

// pending reports whether some running task may still give rise to others.
func (e *engine) pending() bool {
	if e.err == nil {
		return len(e.active) > 0
	}
	for _, j := range e.active {
		if j.finished < j.issued && j.index <= e.errAt.job {
			return true
		}
	}
	return false
}

// advance moves j to its next stage that has tasks, or ends it. e.mu is held on
// entry and return; prepare itself runs unlocked, with no task of j under way.
func (e *engine) advance(j *job) {
	for {
		if e.err != nil && !(position{j.index, j.stage + 1, 0}).before(e.errAt) {
			return
		}
		j.stage++
		j.n, j.issued, j.finished = 0, 0, 0
		if j.stage == len(j.stages) {
			e.used -= j.cost
			for i, a := range e.active {
				if a == j {
					e.active = append(e.active[:i], e.active[i+1:]...)
					break
				}
			}
			j.close()
			return
		}
		prepare := j.stages[j.stage].prepare
		// A stage under preparation has one task issued and none to take.
		j.n, j.issued = 1, 1
		e.mu.Unlock()
		n, err := prepare()
		e.mu.Lock()
		if err != nil {
			e.fail(position{j.index, j.stage, -1}, fmt.Errorf("%s: %w", j.name, err))
			j.n, j.issued, j.finished = 0, 0, 0
			return
		}
		j.n, j.issued, j.finished = n, 0, 0
		e.wake.Broadcast()
		if n > 0 {
			return
		}
	}
}

func (e *engine) fail(at position, err error) {
	if e.err == nil || at.before(e.errAt) {
		e.err, e.errAt = err, at
		e.wake.Broadcast()
	}
}

func (j *job) close() {
	if j.end != nil {
		j.end()
		j.end = nil
	}
}
