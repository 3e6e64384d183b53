//go:build interop && linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// usage is what one timed run took.
type usage struct {
	wall, cpu time.Duration
	rss       int64 // bytes, the peak of the largest process
}

// contender is one way to do the job, writing dst.
type contender struct {
	name      string
	args      func(src, dst string) []string
	rounds    int
	maxMemory int64 // what its peak RSS is held against; 0 for nothing
	env       []string
}

// timed runs args and, when dst is not empty, syncs the file system that dst is on, all inside the time.
func timed(ctx context.Context, args, env []string, dst string) (usage, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = append(os.Environ(), env...)
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return usage{}, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, output.Bytes())
	}
	if dst != "" {
		if err := exec.CommandContext(ctx, "sync", "-f", dst).Run(); err != nil {
			return usage{}, fmt.Errorf("sync -f %s: %w", dst, err)
		}
	}
	u := usage{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	// Linux counts Maxrss in KiB. A child starts with its parent's peak, a few MiB here: see -make.
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.rss = r.Maxrss << 10
	}
	return u, nil
}

// warm reads every file of dir once.
func warm(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// interleave runs every contender once a round, starting each round with the next one, and returns their runs by name.
func interleave(ctx context.Context, src, dir string, rounds int, list []contender) (map[string][]usage, error) {
	runs := map[string][]usage{}
	dst := filepath.Join(dir, "out")
	for round := range rounds {
		for i := range list {
			c := list[(i+round)%len(list)]
			if round >= c.rounds {
				continue
			}
			if err := os.RemoveAll(dst); err != nil {
				return nil, err
			}
			if err := warm(src); err != nil {
				return nil, err
			}
			if err := exec.CommandContext(ctx, "sync", "-f", dir).Run(); err != nil {
				return nil, fmt.Errorf("sync -f %s: %w", dir, err)
			}
			u, err := timed(ctx, c.args(src, dst), c.env, dst)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(os.Stderr, "round %d: %s: %.2f s, CPU %.2f s, peak RSS %d MiB\n", round+1, c.name, u.wall.Seconds(), u.cpu.Seconds(), u.rss>>20)
			runs[c.name] = append(runs[c.name], u)
		}
	}
	return runs, os.RemoveAll(dst)
}

func median[T ~int64](list []usage, of func(usage) T) T {
	values := make([]T, len(list))
	for i, u := range list {
		values[i] = of(u)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func wall(u usage) time.Duration { return u.wall }
func cpu(u usage) time.Duration  { return u.cpu }

func peak(list []usage) int64 {
	var most int64
	for _, u := range list {
		most = max(most, u.rss)
	}
	return most
}

// print writes the medians, the wall time over base's, and every wall time; it returns an error for a run over its memory.
func print(w io.Writer, list []contender, runs map[string][]usage, base string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "\nrun\twall s\tCPU s\tpeak MiB\tx %s\tof runs\n", base)
	var over []string
	for _, c := range list {
		r := runs[c.name]
		if len(r) == 0 {
			continue
		}
		var each []string
		for _, u := range r {
			each = append(each, fmt.Sprintf("%.2f", u.wall.Seconds()))
		}
		ratio := "-"
		if b := runs[base]; len(b) > 0 {
			ratio = fmt.Sprintf("%.3f", float64(median(r, wall))/float64(median(b, wall)))
		}
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f\t%d\t%s\t%s\n", c.name, median(r, wall).Seconds(), median(r, cpu).Seconds(), peak(r)>>20, ratio, strings.Join(each, " "))
		if c.maxMemory > 0 && peak(r) > c.maxMemory+slack {
			over = append(over, fmt.Sprintf("%s: peak RSS %d MiB, want at most %d", c.name, peak(r)>>20, (c.maxMemory+slack)>>20))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(over) > 0 {
		return fmt.Errorf("over --max-memory + 64 MiB:\n%s", strings.Join(over, "\n"))
	}
	return nil
}
