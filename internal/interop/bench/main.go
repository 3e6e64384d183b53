//go:build interop && linux

// Command bench measures nf4kit beside what its users would run instead: cp -r of the source, transformers with bitsandbytes,
// and the CPU kernels of bitsandbytes and ONNX Runtime.
//
//	internal/interop/setup.sh --bench
//	go run -tags interop ./internal/interop/bench -dir /mnt/scratch
//
// Unless -src names a checkpoint, in -dir (a new temporary folder by default) it makes a Llama of TinyLlama's shape with random weights, 1.1 billion
// parameters in three bfloat16 shards, unless it is there already. Each round then runs every contender once, in an order that
// rotates from round to round; before each timed run the source is read once and the file system synced, and the time
// includes the sync of what was written. Wall time, CPU time and peak RSS are the child's own, from wait4. The exit status
// is 1 if a run failed or went over its --max-memory by more than 64 MiB.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

// slack is what a run's peak RSS may exceed --max-memory by.
const slack = 64 << 20

type options struct {
	dir, home, src   string
	nf4kit           string
	rounds, pyRounds int
	jobs, sparse     bool
	kernels, convert bool
	keep             bool
}

func main() {
	var o options
	home, _ := os.UserHomeDir()
	flag.StringVar(&o.dir, "dir", "", "folder for the source and the outputs; about 6 GB free (default a temporary one)")
	flag.StringVar(&o.src, "src", "", "checkpoint to convert (default: the 1.1-billion-parameter Llama, made in -dir)")
	flag.StringVar(&o.home, "home", envOr("NF4KIT_INTEROP_HOME", filepath.Join(home, ".cache", "nf4kit")), "folder of the Python environments")
	flag.StringVar(&o.nf4kit, "nf4kit", "", "binary to measure (default: built from this checkout)")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of convert and cp")
	flag.IntVar(&o.pyRounds, "transformers", 1, "rounds that include transformers + bitsandbytes")
	flag.BoolVar(&o.jobs, "jobs", false, "measure --jobs 1 and --jobs 2 too (choose a -dir on a RAM disk)")
	flag.BoolVar(&o.sparse, "sparse", false, "convert one sparse tensor of 16 GiB too, for its peak RSS")
	flag.BoolVar(&o.kernels, "kernels", true, "measure the kernels")
	flag.BoolVar(&o.convert, "convert", true, "measure the conversion")
	flag.BoolVar(&o.keep, "keep", false, "leave the source that was made in -dir for another run")
	makeIn := flag.String("make", "", "only make the source in this folder (bench calls itself so: its own memory must stay small)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *makeIn != "" {
		err = makeTinyLlama(*makeIn)
	} else {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

func run(ctx context.Context, o options, stdout io.Writer) error {
	top, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module's root: %w", err)
	}
	root := strings.TrimSpace(string(top))
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "nf4kit-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
	}
	if o.nf4kit == "" {
		o.nf4kit = filepath.Join(o.dir, "nf4kit")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.nf4kit, "./cmd/nf4kit")
		build.Dir, build.Stderr = root, os.Stderr
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := build.Run(); err != nil {
			return fmt.Errorf("build nf4kit: %w", err)
		}
		defer os.Remove(o.nf4kit)
	}
	printMachine(stdout)
	if o.kernels {
		if err := benchKernels(ctx, o, root, stdout); err != nil {
			return err
		}
	}
	if err := benchSmall(ctx, o, root, stdout); err != nil {
		return err
	}
	if o.convert {
		if err := benchConvert(ctx, o, root, stdout); err != nil {
			return err
		}
	}
	if o.sparse {
		return benchSparse(ctx, o, stdout)
	}
	return nil
}

// printMachine says what the figures are of.
func printMachine(w io.Writer) {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	cpus, err := exec.Command("nproc").Output()
	if err != nil {
		cpus = []byte("?")
	}
	fmt.Fprintf(w, "%s, %s cores\n", model, strings.TrimSpace(string(cpus)))
}
