package fourbit

import (
	"fmt"
	"strings"
)

// Loader is a program that reads checkpoints, by the name users know it by.
type Loader string

// The loaders whose behaviour a Problem speaks of. The versions are those in which the behaviour was seen.
const (
	Transformers5   Loader = "transformers 5"
	Transformers4   Loader = "transformers 4.57"
	Transformers455 Loader = "transformers up to 4.55"
	Bitsandbytes    Loader = "bitsandbytes"
	VLLM            Loader = "vLLM"
	SGLang          Loader = "SGLang"
	Diffusers       Loader = "diffusers"
	Unsloth         Loader = "Unsloth"
	FSDP            Loader = "FSDP"
)

// allLoaders is for what no loader can read: it names the two that everything else stands on.
var allLoaders = []Loader{Transformers5, Transformers4, VLLM, SGLang, Diffusers}

// Kind classifies a Problem.
type Kind string

// The kinds of Problem.
const (
	MissingSidecar  Kind = "missing sidecar"    // a tensor that the weight cannot do without
	OrphanSidecar   Kind = "orphan sidecar"     // a sidecar whose weight is not there
	UnknownSidecar  Kind = "unknown sidecar"    // a tensor below a quantized weight that bitsandbytes does not know
	UnpackedWeight  Kind = "weight not packed"  // sidecars beside a weight in full precision
	WrongDType      Kind = "wrong dtype"        // of the weight or of a sidecar
	WrongShape      Kind = "wrong shape"        // wrong number of elements
	UnusualShape    Kind = "unusual shape"      // right number of elements, in a shape some loaders refuse
	DuplicateState  Kind = "two quant_states"   // more than one quant_state record for a weight
	BadState        Kind = "bad quant_state"    // a record that bitsandbytes would reject
	StateMismatch   Kind = "state mismatch"     // the record contradicts its name or the tensors beside it
	SplitSidecars   Kind = "sidecars split"     // a sidecar in another file than its weight
	NestedBlocks    Kind = "nested block size"  // of the second level, other than 256
	QuantStorage    Kind = "quant storage"      // packed bytes labelled as another dtype than U8
	WrongTable      Kind = "wrong code table"   // quant_map or nested_quant_map is not the table of its type
	OtherMap        Kind = "another 8-bit map"  // nested_quant_map is not the dynamic map, and may well be so
	Mixed           Kind = "mixed quantization" // not every weight has the same type and double quantization
	ConfigMismatch  Kind = "config mismatch"    // quantization_config says otherwise than the tensors
	FloatDType      Kind = "decoded dtype"      // float32, which vLLM sizes its packed tensors wrong for
	OddCount        Kind = "odd element count"  // an odd number of elements
	SmallBlock      Kind = "small block size"   // 32, which only recent bitsandbytes reads
	EightBit        Kind = "8-bit weight"       // bitsandbytes LLM.int8 tensors
	DuplicateTensor Kind = "duplicate tensor"   // the same name given twice
)

// Severity orders problems by what follows from them.
type Severity int

// The severities, least first.
const (
	Notice  Severity = iota // some loader is particular about it
	Warning                 // some loader fails on it or misreads it
	Error                   // the weight cannot be decoded
)

func (s Severity) String() string {
	switch s {
	case Notice:
		return "notice"
	case Warning:
		return "warning"
	}
	return "error"
}

// Problem is one thing wrong with a quantized weight, found from names, dtypes, shapes and records.
type Problem struct {
	Kind     Kind
	Severity Severity
	Tensor   string // the tensor at fault, or the one that is missing
	Shard    string // the file it lies in, "" where it is missing
	Expected string
	Found    string
	Effect   string   // what loaders do with it, "" where Breaks says enough
	Breaks   []Loader // the loaders that fail or misread
}

// Error makes a Problem usable as the error of a command that cannot go on with it.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Shard != "" {
		b.WriteString(p.Shard + ": ")
	}
	if p.Tensor != "" {
		b.WriteString(p.Tensor + ": ")
	}
	fmt.Fprintf(&b, "%s: expected %s, found %s", p.Kind, p.Expected, p.Found)
	if p.Effect != "" {
		b.WriteString(" (" + p.Effect + ")")
	}
	return b.String()
}

// String is Error's text and the loaders that break.
func (p *Problem) String() string {
	if len(p.Breaks) == 0 {
		return p.Error()
	}
	names := make([]string, len(p.Breaks))
	for i, l := range p.Breaks {
		names[i] = string(l)
	}
	return p.Error() + "; breaks " + strings.Join(names, ", ")
}
