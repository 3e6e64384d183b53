package kernel

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// implementation is a set of kernels.
type implementation uint8

const (
	generic implementation = iota
	avx2                   // and FMA
	avx512                 // F, BW, DQ and VL
	neon
)

var names = [...]string{generic: "generic", avx2: "avx2", avx512: "avx512", neon: "neon"}

func (i implementation) String() string { return names[i] }

// available lists what this build and this processor have, the best first.
var available = append(detect(), generic)

// current is what the kernels run.
var current = available[0]

// forced is the error of an unusable NF4KIT_KERNEL.
var forced error

func init() {
	if name := os.Getenv("NF4KIT_KERNEL"); name != "" {
		if _, err := Select(name); err != nil {
			forced = fmt.Errorf("NF4KIT_KERNEL: %w", err)
		}
	}
}

// EnvError returns an error if the environment variable NF4KIT_KERNEL names an implementation that is not available;
// the best one is then used.
func EnvError() error { return forced }

// List returns the names of the available implementations, the best first and "generic" last.
func List() []string {
	list := make([]string, len(available))
	for i, impl := range available {
		list[i] = impl.String()
	}
	return list
}

// Current returns the name of the implementation in use.
func Current() string { return current.String() }

// Select makes every kernel use the named implementation. It must not be called while a kernel runs. restore goes back
// to the one before.
func Select(name string) (restore func(), err error) {
	i := slices.IndexFunc(available, func(impl implementation) bool { return impl.String() == name })
	if i < 0 {
		return nil, fmt.Errorf("kernel %q is not available (have %s)", name, strings.Join(List(), ", "))
	}
	before := current
	current = available[i]
	return func() { current = before }, nil
}
