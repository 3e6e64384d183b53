package main

import (
	"context"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/remote"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Limits are the flags that bound a run, which change no byte and no figure of it.
type Limits struct {
	Jobs      int
	MaxMemory string
}

func (l *Limits) addFlags(fs *pflag.FlagSet) {
	fs.IntVar(&l.Jobs, "jobs", 0, "workers; 0 is one a processor, or what --max-memory holds")
	fs.StringVar(&l.MaxMemory, "max-memory", "512MiB", "bound on memory; at most 64 MiB come on top")
}

// stream reads the limits.
func (l *Limits) stream() (stream.Options, error) {
	if l.Jobs < 0 {
		return stream.Options{}, usagef("--jobs %d: want 0 or more", l.Jobs)
	}
	mem, err := parseSize("max-memory", l.MaxMemory)
	if err != nil {
		return stream.Options{}, err
	}
	if mem == 0 {
		return stream.Options{}, usagef("--max-memory 0: want a positive size")
	}
	o := stream.Options{Jobs: l.Jobs, Memory: mem}
	if err := o.Validate(); err != nil {
		return o, &usageError{err}
	}
	return o, nil
}

// execution is the limits of a conversion.
func (l *Limits) execution() (convert.Execution, error) {
	so, err := l.stream()
	return convert.Execution{Jobs: so.Jobs, MaxMemory: so.Memory}, err
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

// sourceHelp says in the help of a command what its sources may be.
const sourceHelp = `SRC may lie elsewhere: hf://org/name[@REVISION][/FOLDER], org/name where there is no such path,
the https:// address of a directory or file, or s3://, gs:// or azblob://BUCKET/FOLDER.
docs/sources.md has the variables (HF_TOKEN, HF_ENDPOINT, AWS_REGION, ...) and limits.`

// openSource is remote.Open, left behind when ctx ends, until which the source may be read.
func (g *globals) openSource(ctx context.Context, src string) (*checkpoint.Source, error) {
	opt := remote.Options{Agent: "nf4kit/" + versionText(), Getenv: g.getenv, Told: func(text string) {
		if !g.Quiet {
			noticef(g.Stderr, "%s", text)
		}
	}}
	s, err := await(ctx, func() (*checkpoint.Source, error) { return remote.Open(ctx, src, opt) })
	if err == nil && !s.IsLocal() {
		debug.SetMemoryLimit(debug.SetMemoryLimit(-1) + remote.Memory) // see collectGarbage: it comes on top
	}
	return s, err
}

// open is openSource for what a command is about: it says what is odd about it.
func (g *globals) open(ctx context.Context, path string) (*checkpoint.Source, error) {
	src, err := g.openSource(ctx, path)
	if err != nil {
		return nil, err
	}
	g.warn(src.Warnings)
	return src, nil
}

// warn prints warnings.
func (g *globals) warn(texts []string) {
	for _, w := range texts {
		warnf(g.Stderr, "%s", w)
	}
}

// planned makes a plan, left behind when ctx ends, and prints what a user should know of it.
func (g *globals) planned(ctx context.Context, newPlan func() (*convert.Plan, error)) (*convert.Plan, error) {
	p, err := await(ctx, newPlan)
	if err != nil {
		return nil, optionMistake(err)
	}
	g.warn(p.Warnings())
	if !g.Quiet {
		for _, n := range p.Notices() {
			noticef(g.Stderr, "%s", n)
		}
	}
	return p, nil
}

// headerMemory is collectGarbage's for commands that read headers alone: the largest take some 500 MB, and near the limit the collector
// would run all the time.
const headerMemory = 768 << 20

// collectGarbage has the collector keep to --max-memory: what is held counts towards it, and garbage must not come on top.
// Below 64 MiB, which a run may take on top of any --max-memory, it would collect all the time.
func collectGarbage(maxMemory int64) {
	debug.SetMemoryLimit(max(maxMemory, 64<<20))
}
