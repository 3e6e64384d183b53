// Command nf4kit converts safetensors checkpoints to 4-bit NF4 ones that
// transformers, PEFT and vLLM load as they are, and measures what that cost.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	runtime.MemProfileRate = 0 // a walk of the stack for each half MiB, which is for --memprofile
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// endSignals are the signals that end a run in order: what it has staged is
// removed.
func endSignals() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		list = append(list, syscall.SIGHUP) // the end of a terminal or of an ssh session
	}
	return list
}
