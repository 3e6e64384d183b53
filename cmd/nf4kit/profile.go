package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"

	"github.com/spf13/pflag"
)

// profiles are the files that the hidden flags --cpuprofile, --memprofile and --trace ask for, to be read with go tool pprof
// and go tool trace.
type profiles struct {
	cpu, mem, trace string

	running []func() error
}

func (p *profiles) flags(fs *pflag.FlagSet) {
	fs.StringVar(&p.cpu, "cpuprofile", "", "write a CPU profile to this file")
	fs.StringVar(&p.mem, "memprofile", "", "write a profile of all allocations to this file")
	fs.StringVar(&p.trace, "trace", "", "write an execution trace to this file")
	for _, name := range []string{"cpuprofile", "memprofile", "trace"} {
		if err := fs.MarkHidden(name); err != nil {
			panic(err) // the flag is three lines up
		}
	}
}

// start begins what was asked for. Whoever calls it must call stop, also after an error.
func (p *profiles) start() error {
	if err := p.record("CPU profile", p.cpu, pprof.StartCPUProfile, pprof.StopCPUProfile); err != nil {
		return err
	}
	if err := p.record("trace", p.trace, trace.Start, trace.Stop); err != nil {
		return err
	}
	if p.mem == "" {
		return nil
	}
	f, err := os.Create(p.mem)
	if err != nil {
		return fmt.Errorf("memory profile: %w", err)
	}
	runtime.MemProfileRate = 512 << 10 // as Go has it
	p.running = append(p.running, func() error {
		runtime.GC() // the figures in use are those of the last collection
		return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
	})
	return nil
}

func (p *profiles) record(what, file string, start func(io.Writer) error, stop func()) error {
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err == nil {
		if err = start(f); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.running = append(p.running, func() error {
		stop()
		return f.Close()
	})
	return nil
}

// stop ends what start began and writes it out.
func (p *profiles) stop() error {
	var errs []error
	for _, stop := range p.running {
		errs = append(errs, stop())
	}
	p.running = nil
	return errors.Join(errs...)
}
