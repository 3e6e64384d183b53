// Package fourbit finds the weights that bitsandbytes has quantized among the tensors of a checkpoint made by anyone,
// and says what is wrong with them and which loaders it breaks. It also tells from config.json and the tensors whether
// a checkpoint is quantized already, and by what. The convention itself is package nf4/bnb's.
package fourbit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Tensor is a stored tensor and the name of the file it lies in.
type Tensor struct {
	*safetensors.Tensor
	Shard string
}

// Weight is one quantized weight and the tensors that store it.
type Weight struct {
	Name           string
	State          *bnb.State
	Size           bnb.Size
	Packed         Tensor
	Absmax         Tensor
	QuantMap       Tensor
	NestedAbsmax   Tensor // without double quantization, its embedded pointer is nil
	NestedQuantMap Tensor // likewise
	QuantState     Tensor
}

// Groups is a checkpoint's tensors, sorted into quantized weights and everything else.
type Groups struct {
	Weights  []*Weight // that can be decoded, by name
	Plain    []Tensor  // tensors that belong to no quantized weight, by name
	Problems []*Problem
}

// Errors returns the problems that keep some weight from being decoded.
func (g *Groups) Errors() []*Problem {
	return slices.DeleteFunc(slices.Clone(g.Problems), func(p *Problem) bool { return p.Severity < Error })
}

// Group sorts tensors into quantized weights and plain ones and reads every quant_state record (nothing else). It
// takes a checkpoint made by anyone: what is wrong is told as Problems, and a weight with a Problem of severity Error
// is left out of Weights. The error is of reading alone.
func Group(tensors []Tensor) (*Groups, error) {
	sorted := slices.Clone(tensors)
	slices.SortStableFunc(sorted, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	g := &grouper{byName: make(map[string]Tensor, len(sorted)), sidecars: make(map[string][]Tensor)}
	for _, t := range sorted {
		if first, ok := g.byName[t.Name]; ok {
			g.add(Problem{Kind: DuplicateTensor, Severity: Error, Tensor: t.Name, Shard: t.Shard,
				Expected: "each tensor once", Found: "it in " + first.Shard + " too", Breaks: allLoaders})
			continue
		}
		g.byName[t.Name] = t
		if base, ok := bnb.SidecarOf(t.Name); ok {
			g.sidecars[base] = append(g.sidecars[base], t)
		}
	}
	return g.run(sorted)
}

type grouper struct {
	byName   map[string]Tensor
	sidecars map[string][]Tensor // by weight name
	out      Groups
	bad      bool // the weight at hand has a Problem of severity Error
}

func (g *grouper) add(p Problem) {
	g.bad = g.bad || p.Severity == Error
	g.out.Problems = append(g.out.Problems, &p)
}

func (g *grouper) run(sorted []Tensor) (*Groups, error) {
	taken := make(map[string]bool)
	unknown := g.unknown(sorted)
	for i, t := range sorted {
		if i > 0 && sorted[i-1].Name == t.Name {
			continue
		}
		side, quantized := g.sidecars[t.Name]
		if !quantized {
			continue
		}
		taken[t.Name] = true
		for _, s := range side {
			taken[s.Name] = true
		}
		for _, s := range unknown[t.Name] {
			g.add(Problem{Kind: UnknownSidecar, Severity: Warning, Tensor: s.Name, Shard: s.Shard,
				Expected: "only bitsandbytes' own tensors below a quantized weight", Found: "an unknown one",
				Breaks: []Loader{Transformers455, VLLM}})
		}
		if err := g.weight(t, side); err != nil {
			return nil, err
		}
	}
	for i, t := range sorted {
		if taken[t.Name] || i > 0 && sorted[i-1].Name == t.Name {
			continue
		}
		g.plain(t)
	}
	g.uniform()
	return &g.out, nil
}

// unknown returns what is below a quantized weight and no sidecar, by the name of the first weight that it is below.
func (g *grouper) unknown(sorted []Tensor) map[string][]Tensor {
	out := make(map[string][]Tensor)
	var above []string // the weights whose names the name at hand begins with, each the beginning of the next
	for i, t := range sorted {
		if i > 0 && sorted[i-1].Name == t.Name {
			continue
		}
		for len(above) > 0 && !strings.HasPrefix(t.Name, above[len(above)-1]) {
			above = above[:len(above)-1]
		}
		of := slices.IndexFunc(above, func(w string) bool { return t.Name[len(w)] == '.' })
		if of >= 0 {
			if _, known := bnb.SidecarOf(t.Name); !known {
				out[above[of]] = append(out[above[of]], t)
			}
		}
		if _, quantized := g.sidecars[t.Name]; quantized {
			above = append(above, t.Name)
		}
	}
	return out
}

// plain files a tensor that stands alone, unless its name says it should not.
func (g *grouper) plain(t Tensor) {
	base, sidecar := bnb.SidecarOf(t.Name)
	switch {
	case sidecar:
		g.add(Problem{Kind: OrphanSidecar, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "its weight " + base, Found: "no such tensor", Breaks: allLoaders})
		return
	case strings.HasSuffix(t.Name, ".SCB"):
		g.add(Problem{Kind: EightBit, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "a 4-bit or an unquantized weight", Found: "the scales of an 8-bit one"})
	case t.DType == safetensors.U8 && strings.HasSuffix(t.Name, ".weight") && len(t.Shape) == 2 && t.Shape[1] == 1:
		g.add(Problem{Kind: MissingSidecar, Severity: Error, Tensor: t.Name + bnb.StateSuffix + "*",
			Expected: fmt.Sprintf("a quant_state for the packed weight %s %v", t.Name, t.Shape), Found: "no sidecar at all",
			Effect: "transformers takes the packed bytes for the weight", Breaks: allLoaders})
		return
	}
	g.out.Plain = append(g.out.Plain, t)
}

// uniform: transformers 4.57 derives the sidecar names of every weight from the config alone.
func (g *grouper) uniform() {
	type variant struct {
		quantType nf4.Type
		single    bool
	}
	describe := func(v variant) string {
		if v.single {
			return v.quantType.String() + " without double quantization"
		}
		return v.quantType.String() + " with double quantization"
	}
	count := make(map[variant]int)
	first := make(map[variant]*Weight)
	var order []variant
	for _, w := range g.out.Weights {
		v := variant{w.State.Type, w.State.NoDoubleQuant}
		if count[v]++; first[v] == nil {
			first[v] = w
			order = append(order, v)
		}
	}
	slices.SortStableFunc(order, func(a, b variant) int { return count[b] - count[a] })
	for _, v := range order[min(1, len(order)):] {
		g.add(Problem{Kind: Mixed, Severity: Warning, Tensor: first[v].Name, Shard: first[v].Packed.Shard,
			Expected: fmt.Sprintf("%s as in %d other weights", describe(order[0]), count[order[0]]),
			Found:    fmt.Sprintf("%s in %d weights", describe(v), count[v]),
			Effect:   "it derives the names of all sidecars from the config", Breaks: []Loader{Transformers4, Transformers455}})
	}
}
