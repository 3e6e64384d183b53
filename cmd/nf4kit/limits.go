package main

import (
	"runtime/debug"

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

// collectGarbage has the collector keep to --max-memory: what is held counts towards it, and garbage must not come on top.
// Below 64 MiB, which a run may take on top of any --max-memory, it would collect all the time.
func collectGarbage(maxMemory int64) {
	debug.SetMemoryLimit(max(maxMemory, 64<<20))
}
