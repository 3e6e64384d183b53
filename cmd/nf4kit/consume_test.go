package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConsumedKilled kills conversions that use up their source, as often as it takes until one ends: what each finished is part of the
// result, which is that of a run with the source kept. A run that is killed between the rename and the last files of the source leaves those.
func TestConsumedKilled(t *testing.T) {
	if underRace {
		t.Skip("processes that take as long as all other tests; the journal has its own")
	}
	dir := t.TempDir()
	src, dst, kept := filepath.Join(dir, "src"), filepath.Join(dir, "out"), filepath.Join(dir, "kept")
	run := func(args ...string) {
		t.Helper()
		if cmd, stderr := nf4kitCommand(args...); cmd.Run() != nil {
			t.Fatal(stderr)
		}
	}
	run("convert", "../../testdata/llama", filepath.Join(dir, "llama"), "-q")
	run("dequantize", filepath.Join(dir, "llama"), kept, "--max-shard-size", "250kB", "-q")
	fill := func() {
		t.Helper()
		if err := os.RemoveAll(src); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(src, os.DirFS(kept)); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"convert", src, dst}, smallShards...)
	fill()
	run(args...)
	want, shards := files(t, dst), len(finished(t, dst))
	args = append(args, "--consume-source")
	resumed := 0
	for range max(2, killTrials/10) {
		if err := os.RemoveAll(dst); err != nil {
			t.Fatal(err)
		}
		fill()
		for tries := 0; ; tries++ {
			cmd, stderr := nf4kitCommand(args...)
			if tries == 4 {
				if err := cmd.Run(); err != nil {
					t.Fatalf("%v: %s", err, stderr)
				}
				break
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if !killBehind(t, cmd, dst+".nf4kit-staging", rand.IntN(shards+1)) {
				break // it was ready
			}
			if _, err := os.Stat(dst); err == nil {
				break // killed behind the rename
			}
			if marks, _ := filepath.Glob(filepath.Join(src, "*.nf4kit-consumed")); len(marks) > 0 {
				resumed++
			}
		}
		if diff := cmp.Diff(want, files(t, dst)); diff != "" {
			t.Fatalf("after kills (-want +got):\n%.2000s", diff)
		}
	}
	t.Logf("%d of the kills had something of the source used up", resumed)
}
