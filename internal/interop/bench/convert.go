//go:build interop && linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func (o options) converts(name string, rounds int, maxMemory int64, flags ...string) contender {
	return contender{
		name: name, rounds: rounds, maxMemory: maxMemory,
		args: func(src, dst string) []string {
			return append([]string{o.nf4kit, "convert", "-q", src, dst}, flags...)
		},
	}
}

// benchConvert compares the whole job on o.src.
func benchConvert(ctx context.Context, o options, root string, stdout io.Writer) error {
	src, err := filepath.Abs(o.src)
	if err != nil {
		return err
	}
	if o.src == "" {
		src = filepath.Join(o.dir, "tinyllama-random")
		if err := ensureTinyLlama(ctx, src); err != nil {
			return err
		}
		if !o.keep {
			defer os.RemoveAll(src)
		}
	}
	const cp = "cp -r"
	list := []contender{
		o.converts("convert", o.rounds, 0),
		o.converts("convert --no-error", o.rounds, 0, "--no-error"),
		{name: cp, rounds: o.rounds, args: func(src, dst string) []string { return []string{"cp", "-r", src, dst} }},
		o.converts("convert --max-memory 128MiB", o.rounds, 128<<20, "--max-memory", "128MiB"),
		o.converts("convert --max-memory 512MiB", o.rounds, 512<<20, "--max-memory", "512MiB"),
	}
	if o.jobs {
		list = append(list,
			o.converts("convert --jobs 1", o.rounds, 0, "--jobs", "1"),
			o.converts("convert --jobs 2", o.rounds, 0, "--jobs", "2"))
	}
	if o.pyRounds > 0 {
		list = append(list, contender{
			name: "transformers + bitsandbytes", rounds: o.pyRounds, env: []string{"HF_HUB_OFFLINE=1"},
			args: func(src, dst string) []string {
				return []string{filepath.Join(o.home, "t5", "bin", "python"), filepath.Join(root, "internal", "interop", "bench", "quantize.py"), src, dst}
			},
		})
	}
	runs, err := interleave(ctx, src, o.dir, max(o.rounds, o.pyRounds), list)
	if err != nil {
		return err
	}
	return print(stdout, list, runs, cp)
}

// ensureTinyLlama makes the source in dir unless it is there. Another process does it: a child that is timed starts with the peak
// RSS of its parent.
func ensureTinyLlama(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "model.safetensors.index.json")); err == nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "-make", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

// benchSmall times the shipped checkpoint, process start included: twenty runs, no sync but convert's own.
func benchSmall(ctx context.Context, o options, root string, stdout io.Writer) error {
	src := filepath.Join(root, "testdata", "llama")
	dst := filepath.Join(o.dir, "small")
	defer os.RemoveAll(dst)
	var runs []usage
	for range 20 {
		if err := os.RemoveAll(dst); err != nil {
			return err
		}
		u, err := timed(ctx, []string{o.nf4kit, "convert", "-q", src, dst}, nil, "")
		if err != nil {
			return err
		}
		runs = append(runs, u)
	}
	_, err := fmt.Fprintf(stdout, "\ntestdata/llama, process start included: median of %d runs %.1f ms, peak RSS %d MiB\n",
		len(runs), float64(median(runs, wall))/float64(time.Millisecond), peak(runs)>>20)
	return err
}

// benchSparse converts one tensor of 16 GiB, a hole in a file, under two memory limits.
func benchSparse(ctx context.Context, o options, stdout io.Writer) error {
	dir := filepath.Join(o.dir, "sparse")
	if err := makeSparse(dir); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	list := []contender{
		o.converts("16 GiB tensor, --max-memory 128MiB", 1, 128<<20, "--max-memory", "128MiB"),
		o.converts("16 GiB tensor, --max-memory 512MiB", 1, 512<<20, "--max-memory", "512MiB"),
	}
	runs := map[string][]usage{}
	dst := filepath.Join(o.dir, "out")
	for _, c := range list {
		u, err := timed(ctx, c.args(filepath.Join(dir, "model.safetensors"), dst), nil, dst)
		if err != nil {
			return err
		}
		runs[c.name] = []usage{u}
		if err := os.RemoveAll(dst); err != nil {
			return err
		}
	}
	return print(stdout, list, runs, list[0].name)
}
