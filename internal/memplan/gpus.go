package memplan

import (
	"fmt"
	"slices"
	"strings"
)

// GPU is a card by the name people use. MiB is the total that nvidia-smi (or
// its kin) shows, which differs from the round number on the box.
type GPU struct {
	Name   string
	MiB    int64
	Source string // where that total was printed; "nominal" where none was at hand
}

const (
	modal = "github.com/modal-labs/modal-client/pull/2797"
	logs  = "nvidia-smi in public issue logs"
)

// gpus is in order of memory.
var gpus = []GPU{
	{"RTX 4060", 8188, logs},
	{"RTX 3070", 8192, "nominal"},
	{"RTX 3080", 10240, logs},
	{"RTX 2080 Ti", 11264, logs},
	{"RTX 5070", 12227, logs},
	{"RTX 4070", 12282, logs},
	{"RTX 3060", 12288, logs},
	{"T4", 15360, modal},
	{"RTX 5080", 16303, logs},
	{"RTX A4000", 16376, logs},
	{"RTX 4080", 16376, logs},
	{"RTX 4060 Ti 16GB", 16380, logs},
	{"V100 16GB", 16384, logs},
	{"RTX 4000 Ada", 20475, logs},
	{"A10", 23028, modal},
	{"L4", 23034, modal},
	{"RX 7900 XTX", 24560, "nominal"},
	{"RTX 4090", 24564, "github.com/RLinf/RLinf/issues/255"},
	{"RTX A5000", 24564, logs},
	{"RTX 3090", 24576, "github.com/noonghunna/club-3090/issues/1128"},
	{"RTX 5090", 32607, logs},
	{"RTX 5000 Ada", 32760, logs},
	{"V100 32GB", 32768, logs},
	{"A100 40GB", 40960, modal},
	{"L40S", 46068, modal},
	{"A40", 46068, logs},
	{"RTX A6000", 49140, logs},
	{"RTX 6000 Ada", 49140, logs},
	{"MI210", 65520, "nominal"},
	{"H100 80GB", 81559, modal},
	{"A100 80GB", 81920, modal},
	{"H100 NVL", 95830, logs},
	{"H20", 97871, logs},
	{"RTX PRO 6000", 97887, logs},
	{"H200", 143771, logs},
	{"B200", 183359, logs},
	{"MI300X", 196592, "nominal"},
	{"MI325X", 262128, "nominal"},
	{"B300", 275040, "nominal"},
}

// GPUs lists the cards, least memory first.
func GPUs() []GPU { return slices.Clone(gpus) }

// FindGPU finds a card by name: exactly, or as the only one with all the
// words, ignoring case, spaces and hyphens ("4090", "a100-80gb").
func FindGPU(name string) (GPU, error) {
	squash := func(s string) string {
		return strings.NewReplacer(" ", "", "-", "", "_", "").Replace(strings.ToLower(s))
	}
	want := squash(strings.TrimPrefix(strings.TrimPrefix(name, "NVIDIA "), "GeForce "))
	var near []GPU
	for _, g := range gpus {
		have := squash(g.Name)
		if have == want {
			return g, nil
		}
		if want != "" && strings.Contains(have, want) {
			near = append(near, g)
		}
	}
	switch len(near) {
	case 1:
		return near[0], nil
	case 0:
		return GPU{}, &OptionError{"gpu", fmt.Sprintf("%q is not in the list that --list prints; give its memory with --vram", name)}
	}
	var names []string
	for _, g := range near {
		names = append(names, g.Name)
	}
	return GPU{}, &OptionError{"gpu", fmt.Sprintf("%q could be %s; say which", name, strings.Join(names, " or "))}
}

// driverShare is the part of the total that the driver keeps from every
// process, in 1/1000: PyTorch sees 15095 of a T4's 15360 MiB and 24217 of a
// 4090's 24564.
const driverShare = 17

// Usable is what processes can have, in bytes.
func (g GPU) Usable() int64 { return g.MiB << 20 / 1000 * (1000 - driverShare) }

// Verdict is whether a plan fits.
type Verdict string

// The verdicts.
const (
	Fits  Verdict = "fits"
	Tight Verdict = "tight" // less than a tenth left
	Pages Verdict = "pages" // only if paged optimizer states move to the host
	Over  Verdict = "no"
)

// Fit compares a plan with a card's usable memory.
func (x Memory) Fit(usable int64) Verdict {
	switch {
	case x.Process <= usable/10*9:
		return Fits
	case x.Process <= usable:
		return Tight
	case x.Least <= usable:
		return Pages
	}
	return Over
}
