package convert

import (
	"fmt"
	"io"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A logical tensor is one that the model has: stored as it is, or decoded from
// the tensors of a quantization scheme, or a part of a fused stack.
type logical struct {
	name  string
	file  string
	dtype safetensors.DType
	shape []int64
	data  io.ReaderAt        // elements, row-major
	bytes int64              // in the source
	cache *checkpoint.Tensor // nil unless data is the stored tensor as it lies
	asOut bool               // a Conv1D's weight is [out, in] already: LLM.int8 turned it
}

// logical lists the model's tensors in the order of the files. Those of a
// quantization scheme stand where the first of their parts does.
func (p *Plan) logical(src *checkpoint.Source, scheme *decode.Scheme) []logical {
	decoded := map[string]*decode.Logical{}
	if scheme != nil {
		for i := range scheme.Logical {
			l := &scheme.Logical[i]
			decoded[l.Parts[0]] = l
		}
	}
	stored := inFileOrder(src)
	out := make([]logical, 0, len(stored))
	for i := range stored {
		t := &stored[i]
		switch l := decoded[t.Name]; {
		case l != nil:
			out = append(out, logical{name: l.Name, file: t.Shard.Name, dtype: l.DType, shape: l.Shape, data: l.Open(), bytes: l.SrcBytes,
				asOut: scheme.Method == "bitsandbytes"})
		case scheme != nil && scheme.Consumes(t.Name):
		default:
			out = append(out, logical{name: t.Name, file: t.Shard.Name, dtype: t.DType, shape: t.Shape, data: t, bytes: t.Size(), cache: t})
		}
	}
	return out
}

// A part is one expert's matrix of a fused stack.
type part struct {
	logical
	class arch.Class
}

// split takes a fused stack of experts apart, as Llama-4's loaders want a
// quantized checkpoint (SequentialLlama4TextExperts, in transformers'
// quantizers/base.py): expert by expert, each matrix transposed.
//
//	experts.gate_up_proj [E, hidden, 2*inner] -> experts.e.gate_proj.weight, up_proj.weight [inner, hidden]
//	experts.down_proj    [E, inner, hidden]   -> experts.e.down_proj.weight [hidden, inner]
func split(t logical, c arch.Class) ([]part, error) {
	dot := strings.LastIndexByte(t.name, '.')
	stack, leaf := t.name[:dot+1], t.name[dot+1:]
	names := []string{leaf}
	if leaf == "gate_up_proj" {
		names = []string{"gate_proj", "up_proj"}
	}
	experts, in, width := t.shape[0], t.shape[1], t.shape[2]
	n := int64(len(names))
	if width%n != 0 {
		return nil, fmt.Errorf("shape %v: want an even last size, for two projections", t.shape)
	}
	out := width / n
	size := int64(t.dtype.Bits() / 8)
	parts := make([]part, 0, experts*n)
	for e := range experts {
		for i, name := range names {
			module := fmt.Sprintf("%s%d.%s", stack, e, name)
			pc := c
			pc.Split, pc.Module, pc.Expert = false, true, false
			pc.Linear5, pc.Linear4, pc.Quant5, pc.Quant4 = true, true, true, true
			pc.Paths = []string{module}
			pc.Paths5, pc.Paths4 = pc.Paths, pc.Paths
			parts = append(parts, part{logical{
				name: module + ".weight", file: t.file, dtype: t.dtype, shape: []int64{out, in}, bytes: t.bytes / (experts * n),
				data: transposed{src: t.data, in: in, out: out, stride: width, first: e*in*width + int64(i)*out, size: size},
			}, pc})
		}
	}
	return parts, nil
}
