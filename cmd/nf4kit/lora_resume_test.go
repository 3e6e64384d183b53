package main

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

var (
	stayed  = regexp.MustCompile(`(?m)^nf4kit: (\d+) of \d+ weights files are finished and stay: `)
	seconds = regexp.MustCompile(`"seconds": ?[0-9.e-]+`)
)

// mergeArgs are those of a merge into the model in testdata, of an adapter that is made here, which writes many weights files.
func mergeArgs(t *testing.T, dir string) []string {
	t.Helper()
	const base = "../../testdata/llama"
	for _, args := range [][]string{{"convert", base, filepath.Join(dir, "q"), "--no-error", "-q"}, {"lora", "init", base, filepath.Join(dir, "q"), filepath.Join(dir, "adapter"), "--rank", "2", "-q"}} {
		if cmd, stderr := nf4kitCommand(args...); cmd.Run() != nil {
			t.Fatal(stderr)
		}
	}
	return []string{"lora", "merge", base, filepath.Join(dir, "adapter"), "--max-shard-size", "90kB", "--jobs", "2", "--report", filepath.Join(dir, "figures.json")}
}

// A merge that is killed goes on, plain or quantized: files and report are those of one that was left alone.
func TestMergeKilled(t *testing.T) {
	if underRace {
		t.Skip("processes that take as long as all other tests; the journal has its own")
	}
	for name, more := range map[string][]string{"plain": nil, "quantized": {"--quantize"}} {
		dir := t.TempDir()
		dst := filepath.Join(dir, "out")
		args := append(append(mergeArgs(t, dir), dst), more...)
		if cmd, stderr := nf4kitCommand(args...); cmd.Run() != nil {
			t.Fatal(stderr)
		}
		want, shards := files(t, dst), len(finished(t, dst))
		report := seconds.ReplaceAllString(files(t, dir)["figures.json"], "")
		continued := 0
		for tries := 0; continued < 2 && tries < 20; tries++ {
			if err := os.RemoveAll(dst); err != nil {
				t.Fatal(err)
			}
			cmd, _ := nf4kitCommand(args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killBehind(t, cmd, dst+".nf4kit-staging", 1+rand.IntN(shards-1))
			if _, err := os.Stat(dst); err == nil {
				continue
			}
			cmd, stderr := nf4kitCommand(args...)
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s: %v: %s", name, err, stderr)
			}
			if stayed.MatchString(stderr.String()) {
				continued++
			}
			if diff := cmp.Diff(want, files(t, dst)); diff != "" {
				t.Fatalf("%s: after a kill (-want +got):\n%.2000s", name, diff)
			}
			if diff := cmp.Diff(report, seconds.ReplaceAllString(files(t, dir)["figures.json"], "")); diff != "" {
				t.Fatalf("%s: the report after a kill (-want +got):\n%.2000s", name, diff)
			}
		}
		if continued == 0 {
			t.Errorf("%s: no run went on", name)
		}
	}
}

// A merge to a store sends again what was under way alone; with another adapter it does not go on.
func TestMergeToStoreKilled(t *testing.T) {
	if underRace {
		t.Skip("processes that take as long as all other tests; the journal has its own")
	}
	dir := t.TempDir()
	args := mergeArgs(t, dir)
	local := filepath.Join(dir, "out")
	if cmd, stderr := nf4kitCommand(append(args, local)...); cmd.Run() != nil {
		t.Fatal(stderr)
	}
	want := files(t, local)
	kill := make(chan struct{})
	b := &standin.Bucket{Name: "data"}
	sent := 0
	b.Meet = func(_ http.ResponseWriter, r *http.Request) bool {
		b.Lock()
		defer b.Unlock()
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".safetensors") {
			if sent++; sent == 6 {
				close(kill)
			}
		}
		return false
	}
	defer b.Start()()
	run := func(command string, more ...string) (string, error) {
		cmd, stderr := nf4kitCommand(slices.Concat([]string{"lora", command}, args[2:], []string{"s3://data/merged", "--staging", dir}, more)...)
		cmd.Env = append(os.Environ(), cmd.Env...)
		cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL="+b.URL, "AWS_ACCESS_KEY_ID=AKID", "AWS_SECRET_ACCESS_KEY=secret")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			return stderr.String(), err
		case <-kill:
			kill = nil
			_ = cmd.Process.Kill()
			return stderr.String(), <-ended
		}
	}
	if text, err := run("merge"); err == nil || kill != nil {
		t.Fatalf("not killed: %s", text)
	}
	if text, err := run("merge", "--rounding", "safe"); err == nil || !strings.Contains(text, `--rounding was not given, is "safe"`) {
		t.Errorf("another merge went on: %v: %s", err, text)
	}
	text, err := run("merge")
	if err != nil || !stayed.MatchString(text) {
		t.Fatalf("%v: %s", err, text)
	}
	got := map[string]string{}
	for key, data := range b.Objects {
		got[strings.TrimPrefix(key, "merged/")] = string(data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the store (-local +store):\n%.2000s", diff)
	}
	if n := len(slices.DeleteFunc(slices.Collect(maps.Keys(got)), func(k string) bool { return !strings.HasSuffix(k, ".safetensors") })); sent >= 2*n {
		t.Errorf("%d files were sent for %d", sent, n)
	}

	// A swap has taken the old files away by then, and goes on all the same.
	b.Lock()
	kill, sent = make(chan struct{}), 0
	b.Unlock()
	if text, err := run("swap", "--rounding", "safe"); err == nil || kill != nil {
		t.Fatalf("not killed: %s", text)
	}
	if text, err := run("swap", "--rounding", "safe"); err != nil || !stayed.MatchString(text) {
		t.Fatalf("%v: %s", err, text)
	}
}
