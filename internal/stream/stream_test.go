package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
)

func noCost(int) int64 { return 0 }

func TestRunEveryTask(t *testing.T) {
	for _, jobs := range []int{0, 1, 3} {
		done := make([][]int32, 20)
		for i := range done {
			done[i] = make([]int32, i*3)
		}
		err := Run(t.Context(), Options{Jobs: jobs}, func() int { return 0 }, len(done), noCost, func(i int, each Each[int]) error {
			for range 2 {
				if err := each(len(done[i]), func(_ int, k int) error { atomic.AddInt32(&done[i][k], 1); return nil }); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range done {
			for k, n := range row {
				if n != 2 {
					t.Errorf("jobs %d: tensor %d task %d ran %d times, want 2", jobs, i, k, n)
				}
			}
		}
	}
}

// A worker that gets no task takes no memory.
func TestRunFewTasks(t *testing.T) {
	var made atomic.Int32
	newWorker := func() int { return int(made.Add(1)) }
	err := Run(t.Context(), Options{Jobs: 64}, newWorker, 3, noCost, func(_ int, each Each[int]) error {
		return each(1, func(w, _ int) error {
			if w == 0 {
				t.Error("a task without a worker")
			}
			return nil
		})
	})
	if n := made.Load(); err != nil || n < 1 || n > 3 {
		t.Errorf("%d workers made for 3 tasks, error %v", n, err)
	}
}

func TestRunFirstError(t *testing.T) {
	for range 50 {
		err := Run(t.Context(), Options{Jobs: 4}, func() int { return 0 }, 40, noCost, func(i int, each Each[int]) error {
			return each(30, func(_ int, k int) error {
				if i >= 7 && k >= 5 {
					return fmt.Errorf("tensor %d task %d", i, k)
				}
				return nil
			})
		})
		if err == nil || err.Error() != "tensor 7 task 5" {
			t.Fatalf("error %v, want that of tensor 7 task 5", err)
		}
	}
}

func TestRunMemory(t *testing.T) {
	var used, most atomic.Int64
	err := Run(t.Context(), Options{Jobs: 4, Memory: LeastMemory(4) + 100}, func() int { return 0 }, 50, func(i int) int64 { return int64(10 + i*7) },
		func(i int, each Each[int]) error {
			c := min(int64(10+i*7), 100)
			if n := used.Add(c); n > most.Load() {
				most.Store(n)
			}
			defer used.Add(-c)
			return each(3, func(int, int) error { return nil })
		})
	if err != nil {
		t.Fatal(err)
	}
	if most.Load() > 100 {
		t.Errorf("%d bytes in flight, want at most 100", most.Load())
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, Options{Jobs: 2}, func() int { return 0 }, 1000, noCost, func(i int, each Each[int]) error {
		if i == 3 {
			cancel()
		}
		return each(10, func(int, int) error { return nil })
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if err := Run(t.Context(), Options{Jobs: -1}, func() int { return 0 }, 1, noCost, nil); err == nil {
		t.Error("negative jobs: no error")
	}
}

func TestWorkers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(200))
	const mib = 1 << 20
	for _, c := range []struct {
		o       Options
		workers int
		budget  int64
	}{
		{Options{}, 63, 252 * mib},
		{Options{Memory: 4096 * mib}, 200, 3288 * mib},
		{Options{Memory: 24 * mib}, 2, 8 * mib},
		{Options{Memory: 12 * mib}, 1, 0},
		{Options{Jobs: 126}, 126, 0},
		{Options{Jobs: 1, Memory: 512 * mib}, 1, 500 * mib},
	} {
		if err := c.o.Validate(); err != nil {
			t.Errorf("%+v: %v", c.o, err)
		}
		if w, b := c.o.Workers(), c.o.Budget(); w != c.workers || b != c.budget {
			t.Errorf("%+v: %d workers and %d bytes, want %d and %d", c.o, w, b, c.workers, c.budget)
		}
	}
	for _, o := range []Options{{Jobs: -1}, {Memory: -1}, {Memory: 12*mib - 1}, {Jobs: 127}, {Jobs: 2, Memory: 16*mib - 1}, {Jobs: math.MaxInt}, {Jobs: math.MaxInt/4 + 1}} {
		if err := o.Validate(); err == nil {
			t.Errorf("%+v is valid, want an error", o)
		}
	}
}

// TestRunInOrder has one worker run the tasks of tensors one after the other, and begin the next
// only when nothing else is to be done.
func TestRunInOrder(t *testing.T) {
	var ran []string
	err := Run(t.Context(), Options{Jobs: 1}, func() int { return 0 }, 30, noCost, func(i int, each Each[int]) error {
		for stage := range 3 {
			err := each(1+i%4, func(_ int, k int) error { ran = append(ran, fmt.Sprintf("%02d %d %d", i, stage, k)); return nil })
			if err != nil {
				return err
			}
		}
		return each(0, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	// Tasks of the next tensors may come between two sets of one, never between two tasks of a set.
	at := map[string]int{}
	for k, r := range ran {
		at[r] = k
	}
	for i := range 30 {
		for stage := range 3 {
			for k := 1; k < 1+i%4; k++ {
				a, b := fmt.Sprintf("%02d %d %d", i, stage, k-1), fmt.Sprintf("%02d %d %d", i, stage, k)
				if at[b] < at[a] {
					t.Errorf("task %q ran before %q", b, a)
				}
				for _, between := range ran[at[a]+1 : at[b]] {
					if between > b {
						t.Errorf("task %q, of a later tensor, ran between %q and %q", between, a, b)
					}
				}
			}
		}
	}
	if len(at) != len(ran) {
		t.Errorf("%d tasks ran, %d different ones", len(ran), len(at))
	}
}

// TestRunFirstErrorOfASet has a later tensor, and a later task, fail before an earlier one.
func TestRunFirstErrorOfASet(t *testing.T) {
	for jobs := 1; jobs < 6; jobs++ {
		var after atomic.Int64
		err := Run(t.Context(), Options{Jobs: jobs}, func() int { return 0 }, 20, noCost, func(i int, each Each[int]) error {
			if err := each(4, func(_ int, k int) error {
				if i > 9 {
					after.Add(1)
					return errors.New("of a later tensor")
				}
				return nil
			}); err != nil {
				return err
			}
			return each(4, func(_ int, k int) error {
				if i == 9 && k > 0 {
					return fmt.Errorf("tensor %d, task %d", i, k)
				}
				return nil
			})
		})
		if err == nil || err.Error() != "tensor 9, task 1" {
			t.Errorf("%d jobs: error %v, want that of tensor 9, task 1", jobs, err)
		}
		if n := after.Load(); n > int64(4*2*jobs) {
			t.Errorf("%d jobs: %d tasks of tensors behind the failed one ran", jobs, n)
		}
	}
}

// TestRunErrorOutsideOfTasks is that of a tensor's own function.
func TestRunErrorOutsideOfTasks(t *testing.T) {
	bad := errors.New("bad")
	err := Run(t.Context(), Options{Jobs: 3}, func() int { return 0 }, 5, noCost, func(i int, each Each[int]) error {
		if i == 2 {
			return bad
		}
		return each(2, func(int, int) error { return nil })
	})
	if !errors.Is(err, bad) {
		t.Errorf("error %v, want %v", err, bad)
	}
}

func TestInOrder(t *testing.T) {
	var got []int
	o := InOrder[int]{Take: func(part []int) { got = append(got, part...) }}
	reused := make([]int, 2)
	for _, i := range []int{2, 0, 3, 1, 5, 4} {
		reused[0], reused[1] = 2*i, 2*i+1
		o.Put(i, reused)
	}
	for i, v := range got {
		if v != i {
			t.Fatalf("took %v, want them in order", got)
		}
	}
	if len(got) != 12 || len(o.waiting) != 0 {
		t.Errorf("took %d values, %d parts still wait", len(got), len(o.waiting))
	}
}
