package bnb

import (
	"strings"
)

const (
	// NestedBlockSize is the only block size of the second level that bitsandbytes 0.50 multiplies with
	// (bitsandbytes/autograd/_functions.py, matmul_4bit).
	NestedBlockSize = 256
	// CodeCount is the length of the stored table of the codes' values.
	CodeCount = 16
	// NestedCodeCount is that of the second level's.
	NestedCodeCount = 256
	// StateSize is the length of every quant_state record this package writes. A fixed length is what lets a
	// writer know each byte's place before it has computed a single scale.
	StateSize = 256
)

// Names are the tensor names of one quantized weight. A weight without double quantization has no nested tensors.
type Names struct {
	Weight, Absmax, QuantMap, NestedAbsmax, NestedQuantMap, QuantState string
}

// Names returns the names that belong to weight (a full tensor name, usually ending in ".weight").
func (f Format) Names(weight string) Names {
	return Names{
		Weight:         weight,
		Absmax:         weight + suffixAbsmax,
		QuantMap:       weight + suffixQuantMap,
		NestedAbsmax:   weight + suffixNestedAbsmax,
		NestedQuantMap: weight + suffixNestedQuantMap,
		QuantState:     weight + StateSuffix + f.Type.String(),
	}
}

// StateSuffix is what stands between the name of a weight and the 4-bit type in the name of its quant_state record.
const StateSuffix = suffixQuantState + "bitsandbytes__"

const (
	suffixAbsmax         = ".absmax"
	suffixQuantMap       = ".quant_map"
	suffixNestedAbsmax   = ".nested_absmax"
	suffixNestedQuantMap = ".nested_quant_map"
	suffixQuantState     = ".quant_state."
)

// SidecarOf splits the name of a sidecar from that of its weight. ok is false for any other name.
func SidecarOf(name string) (weight string, ok bool) {
	if i := strings.LastIndex(name, suffixQuantState); i > 0 && !strings.Contains(name[i+len(suffixQuantState):], ".") {
		return name[:i], true
	}
	for _, s := range []string{suffixAbsmax, suffixQuantMap, suffixNestedAbsmax, suffixNestedQuantMap} {
		if base, ok := strings.CutSuffix(name, s); ok && base != "" {
			return base, true
		}
	}
	return "", false
}
