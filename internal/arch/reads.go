package arch

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// readsText lists the Linears whose weight transformers' modeling code reads
// itself, past their forward, and which it quantizes all the same; gen/reads.py
// says how a line is read.
//
//go:embed data/reads.txt
var readsText string

// A read is one line of readsText: modules of one model type.
type read struct {
	by    Target
	how   Misuse
	paths []string // ends of module paths, "#" for numbers
}

// Misuse says what becomes of a packed weight that modeling code reads itself.
type Misuse string

// The ways of it.
const (
	TakenForMatrix  Misuse = "use"    // by a product, a slice or a convolution
	TakenForDType   Misuse = "cast"   // activations are cast to its dtype, uint8
	TakenInTraining Misuse = "train"  // as TakenForMatrix, in training alone
	TakenByKernels  Misuse = "kernel" // as TakenForMatrix, where CUDA kernels such as mamba-ssm's are installed
)

// String says it of the loader, after its name.
func (m Misuse) String() string {
	switch m {
	case TakenForMatrix:
		return "takes packed weights for plain matrices"
	case TakenForDType:
		return "casts activations to uint8, the dtype of packed weights"
	case TakenByKernels:
		return "takes packed weights for plain matrices in CUDA kernels such as mamba-ssm's"
	}
	return "takes packed weights for plain matrices in training"
}

// Always reports whether it happens whatever is done with the model.
func (m Misuse) Always() bool { return m == TakenForMatrix || m == TakenForDType }

var reads = sync.OnceValue(func() map[string][]read {
	m := map[string][]read{}
	for line := range strings.Lines(readsText) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] == "#" {
			continue
		}
		r := read{how: Misuse(f[2]), paths: f[3:]}
		if strings.Contains(f[1], "5") {
			r.by |= Transformers5
		}
		if strings.Contains(f[1], "4") {
			r.by |= Transformers4
		}
		m[f[0]] = append(m[f[0]], r)
	}
	return m
})

// Misread returns those of the targets whose modeling code cannot work with
// the weight of the class packed, though they quantize it on their own, by how
// it misreads it.
func (m *Model) Misread(c Class, t Target) map[Misuse]Target {
	if m.entry == nil || t&(Transformers5|Transformers4) == 0 {
		return nil
	}
	var out map[Misuse]Target
	types := []string{m.Type}
	for _, sub := range m.entry.sub {
		types = append(types, sub)
	}
	for _, typ := range types {
		for _, r := range reads()[typ] {
			var hit Target
			if r.by&t&Transformers5 != 0 && r.names(c.Paths[V5]) {
				hit |= Transformers5
			}
			if r.by&t&Transformers4 != 0 && r.names(c.Paths[V4]) {
				hit |= Transformers4
			}
			if hit == 0 {
				continue
			}
			if out == nil {
				out = map[Misuse]Target{}
			}
			out[r.how] |= hit
		}
	}
	return out
}

// names reports whether one of the module paths is among the read's.
func (r *read) names(paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		p = digitless(p, "#")
		return slices.ContainsFunc(r.paths, func(end string) bool {
			return strings.HasSuffix(p, end) && (len(p) == len(end) || p[len(p)-len(end)-1] == '.')
		})
	})
}
