package convert

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// twoStage makes a job of n tasks, then one, that records what ran.
func twoStage(name string, cost int64, n int, run func(task int) error, done *atomic.Int64) *job {
	var ran atomic.Int64
	return &job{name: name, cost: cost, stages: []stage{
		{func() (int, error) { return n, nil }, func(_ *worker, task int) error { ran.Add(1); return run(task) }},
		{func() (int, error) {
			if got := ran.Load(); got != int64(n) {
				return 0, fmt.Errorf("stage 2 prepared after %d of %d tasks", got, n)
			}
			return 1, nil
		}, func(*worker, int) error { done.Add(1); return nil }},
	}}
}

func TestEngineRunsEveryTaskOnce(t *testing.T) {
	for _, workers := range []int{1, 2, 7} {
		var done, tasks atomic.Int64
		var jobs []*job
		want := int64(0)
		for i := range 50 {
			n := i % 5 // jobs without tasks in a stage too
			want += int64(n)
			jobs = append(jobs, twoStage(fmt.Sprint(i), int64(i), n, func(int) error { tasks.Add(1); return nil }, &done))
		}
		e := &engine{workers: workers, budget: 60}
		if err := e.run(context.Background(), jobs, func() *worker { return nil }); err != nil {
			t.Fatal(err)
		}
		if done.Load() != 50 || tasks.Load() != want || e.used != 0 || len(e.active) != 0 {
			t.Errorf("%d workers: %d jobs done, %d tasks (want 50, %d); %d bytes and %d jobs left",
				workers, done.Load(), tasks.Load(), want, e.used, len(e.active))
		}
	}
}

func TestEngineKeepsBudget(t *testing.T) {
	var mu sync.Mutex
	var used, most int64
	var jobs []*job
	for i := range 40 {
		cost := int64(10 + i%7*10)
		jobs = append(jobs, &job{name: fmt.Sprint(i), cost: cost, stages: []stage{{
			func() (int, error) {
				mu.Lock()
				defer mu.Unlock()
				used += cost
				most = max(most, used)
				return 3, nil
			},
			func(*worker, int) error { return nil },
		}}, end: func() { mu.Lock(); used -= cost; mu.Unlock() }})
	}
	e := &engine{workers: 4, budget: 100}
	if err := e.run(context.Background(), jobs, func() *worker { return nil }); err != nil {
		t.Fatal(err)
	}
	if most > 100 || used != 0 {
		t.Errorf("budget 100: held at most %d, %d at the end", most, used)
	}
}

func TestEngineReportsFirstErrorInOrder(t *testing.T) {
	for round := range 50 {
		var done atomic.Int64
		ended := make([]atomic.Int64, 20)
		var jobs []*job
		for i := range 20 {
			j := twoStage(fmt.Sprintf("job%d", i), 1, 4, func(task int) error {
				if i >= 7 && task == 3 || i == 9 && task == 0 {
					return fmt.Errorf("task %d", task)
				}
				return nil
			}, &done)
			j.end = func() { ended[i].Add(1) }
			jobs = append(jobs, j)
		}
		e := &engine{workers: 1 + round%6, budget: 1000}
		err := e.run(context.Background(), jobs, func() *worker { return nil })
		if err == nil || err.Error() != "job7: task 3" {
			t.Fatalf("%d workers: error %v; want job7: task 3", e.workers, err)
		}
		for i := range ended {
			if n := ended[i].Load(); n > 1 || n == 0 && i < e.next {
				t.Fatalf("job %d released %d times", i, n)
			}
		}
	}
}

func TestEnginePrepareError(t *testing.T) {
	j := &job{name: "w", stages: []stage{{func() (int, error) { return 0, errors.New("no room") }, nil}}}
	e := &engine{workers: 3}
	if err := e.run(context.Background(), []*job{j}, func() *worker { return nil }); err == nil || !strings.Contains(err.Error(), "w: no room") {
		t.Fatalf("error %v", err)
	}
}

func TestEngineStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ran, done atomic.Int64
	var jobs []*job
	for range 1000 {
		jobs = append(jobs, twoStage("w", 1, 2, func(int) error {
			if ran.Add(1) == 5 {
				cancel()
				<-ctx.Done()
			}
			return nil
		}, &done))
	}
	e := &engine{workers: 2, budget: 10}
	if err := e.run(ctx, jobs, func() *worker { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v; want context.Canceled", err)
	}
	if n := ran.Load(); n > 1000 {
		t.Errorf("%d of 2000 tasks ran after cancellation at the fifth", n)
	}
}
