package main

import (
	"context"
	"runtime/debug"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// streamOptions reads --jobs and --max-memory.
func streamOptions(jobs int, maxMemory string) (stream.Options, error) {
	if jobs < 0 {
		return stream.Options{}, usagef("--jobs %d: want 0 or more", jobs)
	}
	mem, err := parseSize("max-memory", maxMemory)
	if err != nil {
		return stream.Options{}, err
	}
	if mem == 0 {
		return stream.Options{}, usagef("--max-memory 0: want a positive size")
	}
	o := stream.Options{Jobs: jobs, Memory: mem}
	if err := o.Validate(); err != nil {
		return o, &usageError{err}
	}
	return o, nil
}

// await runs a part of a command that reads headers and writes nothing, and leaves it behind when ctx ends: hostile or
// very large headers take seconds, and an interrupt is not to wait for them.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// openSource is checkpoint.Open, left behind when ctx ends.
func openSource(ctx context.Context, path string) (*checkpoint.Source, error) {
	return await(ctx, func() (*checkpoint.Source, error) { return checkpoint.Open(path) })
}

// collectGarbage has the collector keep to --max-memory: what is held counts towards it, and garbage must not come on top.
// Below 64 MiB, which a run may take on top of any --max-memory, it would collect all the time.
func collectGarbage(maxMemory int64) {
	debug.SetMemoryLimit(max(maxMemory, 64<<20))
}
