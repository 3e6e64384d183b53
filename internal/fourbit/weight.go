package fourbit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// weight checks one quantized weight against its sidecars and files it.
func (g *grouper) weight(t Tensor, side []Tensor) error {
	g.bad = false
	w := &Weight{Name: t.Name, Packed: t}
	names := bnb.Format{}.Names(t.Name)
	var states []Tensor
	for _, s := range side {
		switch s.Name {
		case names.Absmax:
			w.Absmax = s
		case names.QuantMap:
			w.QuantMap = s
		case names.NestedAbsmax:
			w.NestedAbsmax = s
		case names.NestedQuantMap:
			w.NestedQuantMap = s
		default:
			states = append(states, s)
		}
		if s.Shard != t.Shard {
			g.add(Problem{Kind: SplitSidecars, Severity: Warning, Tensor: s.Name, Shard: s.Shard,
				Expected: "the file of its weight, " + t.Shard, Found: s.Shard, Breaks: []Loader{Transformers455, Diffusers}})
		}
	}
	if err := g.state(w, states); err != nil {
		return err
	}
	if w.State != nil {
		g.tensors(w)
		g.loaders(w)
	}
	if !g.bad {
		g.out.Weights = append(g.out.Weights, w)
	}
	return nil
}

// state finds, reads and decodes the one quant_state record of w.
func (g *grouper) state(w *Weight, states []Tensor) error {
	if len(states) == 0 {
		g.missing(w.Name+bnb.StateSuffix+"nf4 or fp4", "the quant_state record", "KeyError or ValueError")
		return nil
	}
	if len(states) > 1 {
		g.add(Problem{Kind: DuplicateState, Severity: Error, Tensor: states[1].Name, Shard: states[1].Shard,
			Expected: "one quant_state record", Found: states[0].Name + " too",
			Effect: "bitsandbytes raises ValueError", Breaks: allLoaders})
		return nil
	}
	t := states[0]
	w.QuantState = t
	quantType, err := nf4.ParseType(strings.TrimPrefix(t.Name, w.Name+bnb.StateSuffix))
	if err != nil {
		g.add(Problem{Kind: BadState, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "a name ending in bitsandbytes__nf4 or bitsandbytes__fp4", Found: t.Name[strings.LastIndexByte(t.Name, '.')+1:],
			Effect: "bitsandbytes raises ValueError", Breaks: allLoaders})
		return nil
	}
	if t.DType != safetensors.U8 || len(t.Shape) != 1 || t.Size() > bnb.MaxStateSize {
		g.add(Problem{Kind: BadState, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("U8 with one dimension of at most %d", bnb.MaxStateSize), Found: describe(t), Breaks: allLoaders})
		return nil
	}
	blob, err := readAll(t)
	if err != nil {
		return err
	}
	state, err := bnb.DecodeState(blob)
	if err != nil {
		p := Problem{Kind: BadState, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "a quant_state record", Found: err.Error(), Breaks: allLoaders}
		var se *bnb.StateError
		if errors.As(err, &se) {
			p.Expected, p.Found, p.Effect = se.Expected, se.Found, se.Effect
			if se.Field != "" {
				p.Expected = "field " + se.Field + " to be " + se.Expected
			}
		}
		g.add(p)
		return nil
	}
	if state.Type != quantType {
		g.add(Problem{Kind: StateMismatch, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "quant_type " + quantType.String() + " as in its name", Found: state.Type.String(), Effect: "bitsandbytes decodes by the record"})
	}
	w.State = state
	w.Size, err = state.Size()
	if err != nil {
		return fmt.Errorf("group %s: %w", w.Name, err) // unreachable: bnb.DecodeState refuses such shapes
	}
	return nil
}

// tensors checks dtypes and element counts of the packed weight and its sidecars.
func (g *grouper) tensors(w *Weight) {
	nested := w.NestedAbsmax.Tensor != nil
	g.packed(w)
	switch {
	case w.Absmax.Tensor == nil:
		g.missing(bnb.Format{}.Names(w.Name).Absmax, "the scales", "KeyError")
	case !nested && w.Absmax.DType == safetensors.U8:
		g.add(Problem{Kind: MissingSidecar, Severity: Error, Tensor: bnb.Format{}.Names(w.Name).NestedAbsmax,
			Expected: "the second level of the U8 scales", Found: "no such tensor",
			Effect: "transformers takes the codes for the scales without an error", Breaks: allLoaders})
	case nested:
		g.check(w.Absmax, safetensors.U8, w.Size.Blocks)
	default:
		g.check(w.Absmax, safetensors.F32, w.Size.Blocks)
	}
	if w.QuantMap.Tensor == nil {
		g.missing(bnb.Format{}.Names(w.Name).QuantMap, "the code table", "KeyError")
	} else {
		g.check(w.QuantMap, safetensors.F32, bnb.CodeCount)
	}
	if !nested {
		if !w.State.NoDoubleQuant && (w.Absmax.Tensor == nil || w.Absmax.DType != safetensors.U8) {
			g.add(Problem{Kind: StateMismatch, Severity: Error, Tensor: w.QuantState.Name, Shard: w.QuantState.Shard,
				Expected: "no nested fields, for there is no nested_absmax", Found: "nested fields",
				Effect: "bitsandbytes decodes without the second level"})
		}
		if w.NestedQuantMap.Tensor != nil && !g.bad {
			g.add(Problem{Kind: OrphanSidecar, Severity: Error, Tensor: w.NestedQuantMap.Name, Shard: w.NestedQuantMap.Shard,
				Expected: "nested_absmax beside it", Found: "no such tensor"})
		}
		return
	}
	if w.State.NoDoubleQuant {
		g.add(Problem{Kind: StateMismatch, Severity: Error, Tensor: w.QuantState.Name, Shard: w.QuantState.Shard,
			Expected: "nested fields, for there is a nested_absmax", Found: "none", Effect: "bitsandbytes raises KeyError", Breaks: allLoaders})
		return
	}
	g.check(w.NestedAbsmax, safetensors.F32, w.Size.Nested)
	if w.NestedQuantMap.Tensor == nil {
		g.missing(bnb.Format{}.Names(w.Name).NestedQuantMap, "the table of the second level", "KeyError")
	} else {
		g.check(w.NestedQuantMap, safetensors.F32, bnb.NestedCodeCount)
	}
}

// packed checks the tensor of codes. Transformers reshapes what has the right number of bytes; others do not.
func (g *grouper) packed(w *Weight) {
	t := w.Packed
	width := int64(t.DType.Bits() / 8)
	if _, ok := bnb.StorageOf(t.DType); !ok {
		g.add(Problem{Kind: WrongDType, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: "packed bytes as U8, BF16, F16 or F32", Found: describe(t), Breaks: allLoaders})
		return
	}
	if t.Size() == w.Size.Elems*width && slices.Equal(t.Shape, w.State.Dims()) && t.DType != safetensors.U8 {
		g.add(Problem{Kind: UnpackedWeight, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("%d packed bytes beside its quant_state", w.Size.Packed), Found: describe(t), Breaks: allLoaders})
		return
	}
	if t.Size() != w.Size.Packed {
		g.add(Problem{Kind: WrongShape, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("%d packed bytes for shape %v", w.Size.Packed, w.State.Dims()),
			Found:    fmt.Sprintf("%d bytes (%s)", t.Size(), describe(t)), Breaks: allLoaders})
		return
	}
	if want := []int64{w.Size.Packed / width, 1}; !slices.Equal(t.Shape, want) {
		g.add(Problem{Kind: UnusualShape, Severity: Warning, Tensor: t.Name, Shard: t.Shard, Expected: fmt.Sprintf("shape %v", want),
			Found: fmt.Sprintf("%v", t.Shape), Breaks: []Loader{VLLM, SGLang, Diffusers, FSDP}})
	}
	if t.DType != safetensors.U8 {
		g.add(Problem{Kind: QuantStorage, Severity: Warning, Tensor: t.Name, Shard: t.Shard, Expected: "U8", Found: t.DType.String(),
			Effect: "transformers 4 casts the packed bytes by value unless loaded in that dtype",
			Breaks: []Loader{Transformers4, VLLM, SGLang, Diffusers}})
	}
}

// check wants exactly this dtype and number of elements, in one dimension.
func (g *grouper) check(t Tensor, dtype safetensors.DType, elems int64) {
	switch {
	case t.DType != dtype:
		g.add(Problem{Kind: WrongDType, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("%v [%d]", dtype, elems), Found: describe(t),
			Effect: "loaders decode it to garbage, most of them without an error", Breaks: allLoaders})
	case t.Elems() != elems:
		g.add(Problem{Kind: WrongShape, Severity: Error, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("%v [%d]", dtype, elems), Found: describe(t), Breaks: allLoaders})
	case len(t.Shape) != 1:
		g.add(Problem{Kind: UnusualShape, Severity: Warning, Tensor: t.Name, Shard: t.Shard,
			Expected: fmt.Sprintf("shape [%d]", elems), Found: fmt.Sprintf("%v", t.Shape), Breaks: []Loader{VLLM, SGLang}})
	}
}

// loaders adds what is sound but not read everywhere.
func (g *grouper) loaders(w *Weight) {
	s, t := w.State, w.QuantState
	if !s.NoDoubleQuant && s.NestedBlockSize != bnb.NestedBlockSize {
		g.add(Problem{Kind: NestedBlocks, Severity: Warning, Tensor: t.Name, Shard: t.Shard, Expected: "nested_blocksize 256",
			Found: fmt.Sprint(s.NestedBlockSize), Effect: "matmul_4bit raises NotImplementedError", Breaks: []Loader{Bitsandbytes}})
	}
	if s.BlockSize < nf4.DefaultBlockSize {
		g.add(Problem{Kind: SmallBlock, Severity: Notice, Tensor: t.Name, Shard: t.Shard, Expected: "a block size of 64 or more",
			Found: fmt.Sprint(s.BlockSize), Effect: "only recent bitsandbytes reads it"})
	}
	if s.DType == nf4.Float32 {
		g.add(Problem{Kind: FloatDType, Severity: Notice, Tensor: t.Name, Shard: t.Shard, Expected: "dtype bfloat16 or float16",
			Found: s.DType.String(), Breaks: []Loader{VLLM}})
	}
	if w.Size.Elems%2 != 0 {
		g.add(Problem{Kind: OddCount, Severity: Notice, Tensor: w.Name, Shard: w.Packed.Shard, Expected: "an even number of elements",
			Found: fmt.Sprintf("%d", w.Size.Elems), Breaks: []Loader{VLLM, SGLang}})
	}
}

func (g *grouper) missing(name, what, raises string) {
	g.add(Problem{Kind: MissingSidecar, Severity: Error, Tensor: name, Expected: what, Found: "no such tensor",
		Effect: "bitsandbytes raises " + raises, Breaks: allLoaders})
}

func describe(t Tensor) string { return fmt.Sprintf("%v %v", t.DType, t.Shape) }

// readAll reads a tensor whose size the caller has bounded.
func readAll(t Tensor) ([]byte, error) {
	p := make([]byte, t.Size())
	n, err := t.ReadAt(p, 0)
	if n == len(p) {
		return p, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %s in %s: %w", t.Name, t.Shard, err)
}

// CheckTables reads the stored code tables of w and compares them with the tables of its type, code by code (entry 8
// of FP4 may have either sign: torch.equal's equality). Kernels on a GPU decode by quant_type, those on a CPU by the
// stored table, so a difference makes the same file decode to different values. A nil table is not compared. The table of the
// second level is read by all: another one that is in ascending order is no more than news.
func (w *Weight) CheckTables(codes *[bnb.CodeCount]float32, nested *[bnb.NestedCodeCount]float32) ([]*Problem, error) {
	var problems []*Problem
	compare := func(t Tensor, want []float32, read bool) error {
		if t.Tensor == nil {
			return nil
		}
		raw, err := readAll(t)
		if err != nil {
			return err
		}
		stored := make([]float32, len(want))
		for i := range stored {
			stored[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		for i, x := range want {
			if stored[i] == x {
				continue
			}
			p := &Problem{Kind: WrongTable, Severity: Warning, Tensor: t.Name, Shard: t.Shard,
				Expected: fmt.Sprintf("%v at code %d", x, i), Found: fmt.Sprint(stored[i]),
				Effect: "decodes to other values on a GPU than on a CPU", Breaks: []Loader{Bitsandbytes}}
			if read && ascending(stored) {
				p.Kind, p.Severity, p.Effect, p.Breaks = OtherMap, Notice, "loaders decode by the one that is stored", nil
			}
			problems = append(problems, p)
			return nil
		}
		return nil
	}
	if codes != nil {
		if err := compare(w.QuantMap, codes[:], false); err != nil {
			return nil, err
		}
	}
	if nested != nil {
		if err := compare(w.NestedQuantMap, nested[:], true); err != nil {
			return nil, err
		}
	}
	return problems, nil
}

// ascending tells whether values are finite and in order.
func ascending(v []float32) bool {
	for i, x := range v {
		if !(math.Abs(float64(x)) <= math.MaxFloat32) || i > 0 && x < v[i-1] {
			return false
		}
	}
	return true
}
