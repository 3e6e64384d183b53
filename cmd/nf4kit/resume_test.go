package main

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// killTrials is how many runs are killed; more under the tag hostile.
var killTrials = 5

// nf4kitCommand is this program as a process of its own.
func nf4kitCommand(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Args[0] = "nf4kit" // see TestMain
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	return cmd, stderr
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// finished are the weights files in dir.
func finished(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// killBehind kills a run some time after it has finished n weights files, and reports whether it has met it alive.
func killBehind(t *testing.T, cmd *exec.Cmd, staging string, n int) bool {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for len(finished(t, staging)) < n {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			return false
		case <-time.After(100 * time.Microsecond):
		}
	}
	time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
	_ = cmd.Process.Kill() // it may have ended
	return <-ended != nil
}

// smallShards makes 10 weights files of the model in testdata.
var smallShards = []string{"--max-shard-size", "90kB", "--jobs", "2", "--double-quant=false"}

// TestKilled kills a conversion at moments between its start and its end, and has the same command go on: the result is
// that of a run that nobody has disturbed, and what was finished is not made again.
func TestKilled(t *testing.T) {
	if underRace {
		t.Skip("processes that take as long as all other tests; the journal has its own")
	}
	dir := t.TempDir()
	dst := filepath.Join(dir, "out")
	args := append([]string{"convert", "../../testdata/llama", dst, "--report", filepath.Join(dir, "errors.json")}, smallShards...)
	if cmd, stderr := nf4kitCommand(args...); cmd.Run() != nil {
		t.Fatal(stderr)
	}
	shards := finished(t, dst)
	if len(shards) < 8 {
		t.Fatalf("%d weights files: too few for this test", len(shards))
	}
	want, report := files(t, dst), files(t, dir)["errors.json"]
	kept := regexp.MustCompile(`(?m)^nf4kit: (\d+) of \d+ weights files are finished and stay: `)
	trials, killed, continued, behind := 0, 0, 0, 0
	for ; killed < killTrials; trials++ {
		if trials == 4*killTrials {
			t.Fatalf("of %d runs %d were met alive", trials, killed)
		}
		if err := os.RemoveAll(dst); err != nil {
			t.Fatal(err)
		}
		cmd, _ := nf4kitCommand(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !killBehind(t, cmd, dst+".nf4kit-staging", rand.IntN(len(shards)+1)) {
			continue // it was ready
		}
		killed++
		if _, err := os.Stat(dst); err == nil {
			// Killed behind the rename: complete.
			if diff := cmp.Diff(want, files(t, dst)); diff != "" {
				t.Fatalf("there before it is complete (-want +got):\n%s", diff)
			}
			continue
		}
		n := len(finished(t, dst+".nf4kit-staging"))
		cmd, stderr := nf4kitCommand(args...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		got := 0
		if m := kept.FindStringSubmatch(stderr.String()); m != nil {
			got, _ = strconv.Atoi(m[1])
			continued++
			if first, _, _ := strings.Cut(stderr.String(), "\n"); !strings.Contains(first, dst+".nf4kit-staging") {
				t.Errorf("the first line is %q", first)
			}
		}
		// Two tensors a worker are under way, each of which may have ended a file that is not recorded.
		behind = max(behind, n-got)
		if got < n-4 {
			t.Errorf("of %d finished files %d were kept\n%s", n, got, stderr)
		}
		if diff := cmp.Diff(want, files(t, dst)); diff != "" {
			t.Fatalf("after a kill (-want +got):\n%.2000s", diff)
		}
		if diff := cmp.Diff(report, files(t, dir)["errors.json"]); diff != "" {
			t.Fatalf("report (-want +got):\n%.2000s", diff)
		}
		if left, _ := filepath.Glob(dst + ".nf4kit-*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	t.Logf("%d of %d runs were killed, %d of them had finished something; at most %d finished files were made again", killed, trials, continued, behind)
}

// TestInterruptedLate interrupts a conversion that has finished something: it says so, and how to go on.
func TestInterruptedLate(t *testing.T) {
	dir := t.TempDir()
	dst, want := filepath.Join(dir, "out"), filepath.Join(dir, "want")
	args := func(dst string) []string {
		return append([]string{"convert", "../../testdata/llama", dst}, smallShards...)
	}
	if cmd, stderr := nf4kitCommand(args(want)...); cmd.Run() != nil {
		t.Fatal(stderr)
	}
	for range 10 {
		cmd, stderr := nf4kitCommand(args(dst)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		sent := false
		for alive := true; alive; {
			select {
			case <-ended:
				alive = false
			case <-time.After(100 * time.Microsecond):
				if !sent && len(finished(t, dst+".nf4kit-staging")) >= 2 {
					_ = cmd.Process.Signal(os.Interrupt)
					sent = true
				}
			}
		}
		if cmd.ProcessState.ExitCode() == 0 { // it was faster
			if err := os.RemoveAll(dst); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text := regexp.MustCompile(`(?s)nf4kit: error: interrupted: (.*) was not written\nnf4kit: hint: \d+ of 10 weights files are finished and kept in (.*): the same command goes on from there, --restart begins anew\n$`)
		if m := text.FindStringSubmatch(stderr.String()); cmd.ProcessState.ExitCode() != 130 || m == nil || m[1] != dst || m[2] != dst+".nf4kit-staging" {
			t.Fatalf("exit code %d: %s", cmd.ProcessState.ExitCode(), stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(dst+".nf4kit-staging", ".nf4kit-partial", "*", "*")); len(left) > 0 {
			t.Errorf("kept what is not finished: %v", left)
		}
		if cmd, stderr := nf4kitCommand(args(dst)...); cmd.Run() != nil {
			t.Fatal(stderr)
		}
		if diff := cmp.Diff(files(t, want), files(t, dst)); diff != "" {
			t.Fatalf("(-want +got):\n%.2000s", diff)
		}
		return
	}
	t.Fatal("no run of ten was interrupted in time")
}
