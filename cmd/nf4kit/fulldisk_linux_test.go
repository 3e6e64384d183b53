package main

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// disk mounts a file system of so many bytes.
func disk(t *testing.T, size int64) (dir string, resize func(size int64)) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no file system may be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func(size int64) {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk converts onto disks of sizes from too little for the weights to enough for all: a run that meets the end of the disk, before
// it has begun or in its course, says so by exit code 5, and with more room the same command makes what it would have made.
func TestFullDisk(t *testing.T) {
	if underRace {
		t.Skip("processes that take as long as all other tests")
	}
	want := filepath.Join(t.TempDir(), "out")
	args := func(dst string) []string {
		return append([]string{"convert", "../../testdata/llama", dst}, smallShards...)
	}
	if cmd, stderr := nf4kitCommand(args(want)...); cmd.Run() != nil {
		t.Fatal(stderr)
	}
	var size int64
	for _, text := range files(t, want) {
		size += (int64(len(text)) + 4095) &^ 4095
	}
	const step = 16 << 10
	before, within, kept := 0, 0, 0
	text := regexp.MustCompile(`(?s)nf4kit: error: write .*: expected \d+ bytes of free disk space, found \d+\n|: no space left on device\n`)
	for room := size - 4*step; ; room += step {
		dir, resize := disk(t, room)
		dst := filepath.Join(dir, "out")
		cmd, stderr := nf4kitCommand(args(dst)...)
		if cmd.Run() == nil {
			break
		}
		if code := cmd.ProcessState.ExitCode(); code != 5 || !text.MatchString(stderr.String()) {
			t.Fatalf("a disk of %d bytes for %d: exit code %d: %s", room, size, code, stderr)
		}
		if strings.Contains(stderr.String(), "free disk space") {
			before++
		} else {
			within++
		}
		if strings.Contains(stderr.String(), "weights files are finished and kept in") {
			kept++
		}
		if left, _ := filepath.Glob(dst); len(left) > 0 {
			t.Fatal("there before it is complete")
		}
		resize(4 * size)
		cmd, stderr = nf4kitCommand(args(dst)...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("with more room: %v: %s", err, stderr)
		}
		if diff := cmp.Diff(files(t, want), files(t, dir+"/out")); diff != "" {
			t.Fatalf("with more room (-want +got):\n%.2000s", diff)
		}
		if left, _ := filepath.Glob(dst + ".*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if before == 0 || within == 0 || kept == 0 {
		t.Errorf("%d runs were refused, %d met the end of the disk, %d of them kept something", before, within, kept)
	}
	t.Logf("%d runs were refused, %d met the end of the disk, %d of them kept something", before, within, kept)
}

// TestFullDiskPacked: pack and unpack ask for room before they begin, and leave nothing where there is none.
func TestFullDiskPacked(t *testing.T) {
	dir, resize := disk(t, 1<<20)
	packed := filepath.Join(t.TempDir(), "llama.tar.zst")
	run := func(args ...string) (int, string) {
		cmd, stderr := nf4kitCommand(args...)
		_ = cmd.Run() // its exit code tells
		return cmd.ProcessState.ExitCode(), stderr.String()
	}
	if code, said := run("pack", "../../testdata/llama", packed); code != 0 {
		t.Fatal(said)
	}
	for _, args := range [][]string{{"pack", "../../testdata/llama", filepath.Join(dir, "x.tar.zst")}, {"unpack", packed, filepath.Join(dir, "x")}} {
		code, said := run(args...)
		if code != 5 || !strings.Contains(said, "bytes of free disk space, found 1") {
			t.Errorf("%s: exit code %d: %s", args[0], code, said)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%s: left %v", args[0], left)
		}
	}
	resize(math.MaxInt32)
	if code, said := run("unpack", packed, filepath.Join(dir, "x")); code != 0 {
		t.Error(said)
	}
}
