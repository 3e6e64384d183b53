//go:build interop && linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// rate is one measured kernel: elements a second on one core.
type rate struct {
	Op    string  `json:"op"`   // quantize, dequantize
	Type  string  `json:"type"` // nf4, fp4
	Elem  string  `json:"elem"` // bf16, f16, f32: of the unpacked side
	Impl  string  `json:"impl"` // ours: generic, avx2 ...; else whose kernel it is
	N     int     `json:"n"`    // elements a call
	Speed float64 `json:"speed"`
}

// kernelRounds is how often every kernel is measured, in turn with the others; the best of them counts.
const kernelRounds = 3

// benchKernels compares the kernels core for core: GOMAXPROCS=1 here, one thread pinned to one core there.
func benchKernels(ctx context.Context, o options, root string, stdout io.Writer) error {
	var ours, theirs []rate
	for range kernelRounds {
		r, err := goKernels(ctx, root)
		if err != nil {
			return err
		}
		ours = keepBest(ours, r)
		for _, env := range []string{"t5", "ort"} {
			if r, err = pythonKernels(ctx, o, root, env); err != nil {
				return err
			}
			theirs = keepBest(theirs, r)
		}
	}
	return printKernels(stdout, ours, theirs)
}

// printKernels prints a row for everything that a peer was measured at: millions of elements a second of the peers and of our
// implementations, and the fastest of ours over bitsandbytes.
func printKernels(w io.Writer, ours, theirs []rate) error {
	all := slices.Concat(theirs, ours)
	var impls []string
	for _, r := range all {
		if !slices.Contains(impls, r.Impl) {
			impls = append(impls, r.Impl)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "\nM elements/s, one core\telements\t%s\tbest over %s\n", strings.Join(impls, "\t"), impls[0])
	var done []rate
	for _, t := range theirs {
		t.Impl, t.Speed = "", 0
		if slices.Contains(done, t) {
			continue
		}
		done = append(done, t)
		fmt.Fprintf(tw, "%s %s %s\t%d", t.Op, t.Type, t.Elem, t.N)
		var peer, best float64
		for _, impl := range impls {
			t.Impl = impl
			i := slices.IndexFunc(all, func(r rate) bool { r.Speed = 0; return r == t })
			if i < 0 {
				fmt.Fprint(tw, "\t-")
				continue
			}
			speed := all[i].Speed
			if impl == impls[0] {
				peer = speed
			}
			if i >= len(theirs) {
				best = max(best, speed)
			}
			fmt.Fprintf(tw, "\t%.0f", speed/1e6)
		}
		if peer == 0 || best == 0 {
			fmt.Fprint(tw, "\t-\n")
			continue
		}
		fmt.Fprintf(tw, "\t%.1f\n", best/peer)
	}
	return tw.Flush()
}

// keepBest returns best with every rate of more that is new or faster.
func keepBest(best, more []rate) []rate {
	for _, r := range more {
		same := func(b rate) bool { b.Speed = r.Speed; return b == r }
		if i := slices.IndexFunc(best, same); i < 0 {
			best = append(best, r)
		} else {
			best[i].Speed = max(best[i].Speed, r.Speed)
		}
	}
	return best
}

// pythonKernels runs rates.py in env; without ONNX Runtime's environment there are none of its.
func pythonKernels(ctx context.Context, o options, root, env string) ([]rate, error) {
	python := filepath.Join(o.home, env, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		if env != "ort" {
			return nil, err
		}
		fmt.Fprintln(os.Stderr, "ONNX Runtime is not there: setup.sh --bench installs it")
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, python, filepath.Join(root, "internal", "interop", "bench", "rates.py"))
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s rates.py: %w", env, err)
	}
	var rates []rate
	if err := json.Unmarshal(out, &rates); err != nil {
		return nil, fmt.Errorf("%s rates.py: its answer: %w", env, err)
	}
	return rates, nil
}

// goKernels runs internal/kernel's benchmarks of quantize and dequantize, whose names are key=value pairs, at the lengths that
// the others are measured at (SHAPES in rates.py): one fits the second-level cache, one fits none.
func goKernels(ctx context.Context, root string) ([]rate, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "/op=(quantize|dequantize)/type=/elem=/impl=/n=(262144|16777216)$", "-benchtime", "0.2s", "./internal/kernel")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go test -bench ./internal/kernel: %w\n%s", err, out)
	}
	var rates []rate
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if r, ok := parseBenchmark(s.Text()); ok {
			rates = append(rates, r)
		}
	}
	if len(rates) == 0 {
		return nil, fmt.Errorf("go test -bench ./internal/kernel: no line with op=, type=, elem=, impl= and n=\n%s", out)
	}
	return rates, nil
}

// parseBenchmark reads a line like
//
//	BenchmarkKernel/op=quantize/type=nf4/elem=bf16/impl=avx2/n=65536   100   12345 ns/op   42 MB/s
func parseBenchmark(line string) (rate, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != "ns/op" {
		return rate{}, false
	}
	keys := map[string]string{}
	for part := range strings.SplitSeq(fields[0], "/") {
		if k, v, ok := strings.Cut(part, "="); ok {
			keys[k] = v
		}
	}
	n, err := strconv.Atoi(keys["n"])
	if err != nil {
		return rate{}, false
	}
	ns, err := strconv.ParseFloat(fields[2], 64)
	if err != nil || ns <= 0 {
		return rate{}, false
	}
	r := rate{keys["op"], keys["type"], keys["elem"], keys["impl"], n, float64(n) / ns * 1e9}
	return r, r.Op != "" && r.Type != "" && r.Elem != "" && r.Impl != ""
}
