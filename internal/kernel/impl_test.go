package kernel

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/cpu"
)

// implementations runs f under every implementation.
func implementations(t *testing.T, f func()) {
	t.Helper()
	run(t, List(), f)
}

// assembly runs f under every implementation but the generic one.
func assembly(t *testing.T, f func()) {
	t.Helper()
	list := List()
	run(t, list[:len(list)-1], f)
}

func run(t *testing.T, list []string, f func()) {
	t.Helper()
	failed := t.Failed()
	for _, impl := range list {
		restore, err := Select(impl)
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer restore()
			f()
		}()
		if t.Failed() && !failed {
			t.Fatalf("kernel %s", impl)
		}
	}
}

// What CI asks for with NF4KIT_REQUIRE_KERNELS must have been there to be tested: either every kernel that the processor
// has flags for ("1"), or the implementations listed.
func TestRequireKernels(t *testing.T) {
	required := os.Getenv("NF4KIT_REQUIRE_KERNELS")
	if required == "" {
		t.Skip("NF4KIT_REQUIRE_KERNELS is not set")
	}
	want := strings.Split(required, ",")
	if required == "1" {
		want = []string{"generic"}
		switch runtime.GOARCH {
		case "amd64":
			if cpu.X86.HasAVX2 {
				want = append(want, "avx2")
			}
			if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW {
				want = append(want, "avx512")
			}
		case "arm64":
			want = append(want, "neon")
		}
	}
	for _, name := range want {
		if !slices.Contains(List(), name) {
			t.Errorf("kernel %q was not tested (have %v)", name, List())
		}
	}
	if name := os.Getenv("NF4KIT_KERNEL"); name != "" && name != Current() {
		t.Errorf("NF4KIT_KERNEL=%s runs kernel %q", name, Current())
	}
	t.Logf("kernels tested: %v", List())
}

func TestSelect(t *testing.T) {
	before := Current()
	for _, name := range List() {
		restore, err := Select(name)
		if err != nil {
			t.Fatal(err)
		}
		if Current() != name {
			t.Errorf("Select(%q) left %q", name, Current())
		}
		restore()
		if Current() != before {
			t.Errorf("restore went to %q (want %q)", Current(), before)
		}
	}
	if _, err := Select("mmx"); err == nil || Current() != before {
		t.Errorf("Select of an unknown kernel: error %v, current %q", err, Current())
	}
}
