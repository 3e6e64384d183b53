package main

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// cancelAt cancels a context once something is written to it.
type cancelAt struct {
	bytes.Buffer
	cancel context.CancelFunc
}

func (c *cancelAt) Write(p []byte) (int, error) {
	c.cancel()
	return c.Buffer.Write(p)
}

// TestInterrupted stops a run after its plan was made: exit code 130, and the
// directory as it was.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stderr := &cancelAt{cancel: cancel}
	// -v writes its list between the plan and the first byte.
	args := []string{"convert", "../../testdata/llama", filepath.Join(dir, "out"), "-v"}
	var stdout bytes.Buffer
	if code := run(ctx, args, nil, strings.NewReader(""), &stdout, stderr); code != 130 {
		t.Errorf("exit code %d; want 130", code)
	}
	if !strings.HasSuffix(stderr.String(), "nf4kit: error: interrupted: nothing was written\n") {
		t.Errorf("stderr ends %q", stderr.String()[max(0, stderr.Len()-200):])
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestHangup: the end of the terminal ends a run in order, unless nohup says that it is not to.
func TestHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("started with SIGHUP ignored")
	}
	if !slices.Contains(endSignals(), os.Signal(syscall.SIGHUP)) {
		t.Error("SIGHUP is not among them")
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if slices.Contains(endSignals(), os.Signal(syscall.SIGHUP)) {
		t.Error("SIGHUP is among them though it is ignored")
	}
}
