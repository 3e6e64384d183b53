package convert

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A SourceError reports a checkpoint that is sound but cannot be converted as
// asked: already quantized, nothing to quantize, a layout not supported.
type SourceError struct {
	Path, Tensor string
	Msg          string
	Hint         string // what to do next; not part of Error's text
}

func (e *SourceError) Error() string {
	s := e.Path + ": "
	if e.Tensor != "" {
		s += fmt.Sprintf("tensor %q: ", e.Tensor)
	}
	return s + e.Msg
}

// An OptionError reports options that do not fit the checkpoint.
type OptionError struct{ Msg string }

func (e *OptionError) Error() string { return e.Msg }

// An Item is one tensor of the source and what becomes of it.
type Item struct {
	Name   string
	File   string // of the source, for errors
	Kind   string // what kind of module it is: q_proj, attention.output.dense, ...
	DType  safetensors.DType
	Shape  []int64     // of the logical weight; [out, in] for a quantized one
	Source io.ReaderAt // its elements, row-major in Shape, in the encoding elem

	SrcBytes int64 // bytes in the source
	OutBytes int64 // bytes in the output, sidecars included

	Quantize bool
	Spec     bnb.Format
	Out      safetensors.DType // dtype of a kept tensor in the output
	Reason   string            // why it is kept
	Class    arch.Class
	Shard    int

	elem   kernel.Elem
	packed *decode.FourBit // of a weight that is decoded; nil otherwise
	pieces []piece         // what its output is put together of, transposed; nil if it is written as it lies
	index  int
	cache  *checkpoint.Tensor // read as it lies, so that its pages can be advised on; nil otherwise
}

// Elems is the number of elements of the logical weight.
func (it *Item) Elems() int64 {
	n := int64(1)
	for _, d := range it.Shape {
		n *= d
	}
	return n
}

// State is the quant_state record of a quantized item, without the offset.
func (it *Item) State(run safetensors.DType) *bnb.State {
	return &bnb.State{Format: it.Spec, DType: decodedDType(run), Shape: [2]int64(it.Shape)}
}

// decodedDType is the run dtype, BF16 or F16, as package nf4 has it.
func decodedDType(run safetensors.DType) nf4.DType {
	if run == safetensors.F16 {
		return nf4.Float16
	}
	return nf4.BFloat16
}

// A Shard is one weights file of the output.
type Shard struct {
	Name   string
	Layout *safetensors.Layout
}

// A Plan is everything about a conversion that is known before a weight is
// read. It decides every byte's place.
type Plan struct {
	Source   *checkpoint.Source
	Model    *arch.Model // nil for a bare file
	RunDType safetensors.DType
	Items    []Item // in the order of the source's files, then of offsets
	Shards   []Shard
	Config   []byte // config.json of the output; nil if the source has none
	Index    []byte // model.safetensors.index.json; nil for a single file
	SkipList []string
	Sides    []checkpoint.SideFile // to copy
	Skipped  []checkpoint.Skipped  // not copied, and why
	Notices  []string              // what a user should know
	Warnings []string              // what may not work

	Incomplete []string // of the warnings, what the source lacks or has too much

	Totals Totals

	inputs    Inputs
	shardOf   map[string]int
	indexName string
	config    *checkpoint.Config // of the source; nil if it has none
}

// Totals are sums over the items.
type Totals struct {
	Params          int64 // logical weights of all tensors
	QuantParams     int64 // those that are quantized
	QuantCount      int   // quantized tensors
	KeptCount       int
	ExpertParams    int64 // of routed experts that are kept
	PackableExperts int64 // of them, those that --moe per-expert would quantize
	SrcBytes        int64 // tensor bytes of the source
	OutBytes        int64 // tensor bytes of the output
	QuantBytes      int64 // output bytes of the quantized tensors, tables and records included
	CodeBytes       int64 // of them, codes and constants alone (no tables, no quant_state)
	FileBytes       int64 // weights files of the output, headers included
	MethodBytes     int64 // memory that the method of the scales takes on top of the limit, at most
}

// BitsPerParam is the measure of the whole output: all tensor bytes.
func (t Totals) BitsPerParam() float64 { return ratio(8*float64(t.OutBytes), t.Params) }

// QuantBitsPerParam is that of the quantized part, tables and records included.
func (t Totals) QuantBitsPerParam() float64 { return ratio(8*float64(t.QuantBytes), t.QuantParams) }

// CodeBitsPerParam counts codes and constants alone: 4.127 for NF4 in blocks
// of 64 with double quantization, 4.5 without (QLoRA, arXiv 2305.14314, section 3).
func (t Totals) CodeBitsPerParam() float64 { return ratio(8*float64(t.CodeBytes), t.QuantParams) }

// TorchDType is the run dtype as torch spells it, "bfloat16".
func (p *Plan) TorchDType() string { return weights.TorchName(p.RunDType) }

func ratio(a float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return a / float64(n)
}

// NewPlan decides how src is converted. It reads no weights. Errors are
// [*checkpoint.InputError] or [*SourceError] for the source, [*OptionError] for the options.
func NewPlan(src *checkpoint.Source, opt Options) (*Plan, error) {
	if err := opt.Validate(); err != nil {
		return nil, &OptionError{err.Error()}
	}
	q, stale, err := Quantized(src)
	if err != nil {
		return nil, err
	}
	scheme, err := schemeOf(src, q)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(src, scheme, &opt, false)
	var conflict *skipConflict
	if errors.As(err, &conflict) {
		// No skip list holds in every loader for what 5.x quantizes. What both
		// versions quantize is a smaller set, and mostly one that can be listed.
		p, err = newPlan(src, scheme, &opt, true)
		if errors.As(err, &conflict) {
			return nil, conflict.SourceError
		}
	}
	if err != nil {
		return nil, err
	}
	if stale != nil {
		p.Warnings = append(p.Warnings, Stale(stale, q))
	}
	return p, nil
}

// newPlan is NewPlan for one reading of the default set, see [policy.inSet].
func newPlan(src *checkpoint.Source, scheme *decode.Scheme, opt *Options, common bool) (*Plan, error) {
	p := &Plan{Source: src}
	tensors := p.logical(src, scheme)
	switch {
	case scheme == nil:
	case len(scheme.Logical) == 0:
		p.Notices = append(p.Notices, fmt.Sprintf("config.json says %s, but no weight is quantized: taken as plain", scheme.Label))
	default:
		p.Notices = append(p.Notices, fmt.Sprintf("the source is quantized by %s: %d weights are decoded on the way", scheme.Label, len(scheme.Logical)))
	}
	if err := p.resolve(src, tensors); err != nil {
		return nil, err
	}
	if err := p.checkComplete(modelTensors(tensors), opt.AllowIncomplete); err != nil {
		return nil, err
	}
	opt, err := opt.forModel(p.Model)
	if err != nil {
		return nil, err
	}
	pol := newPolicy(opt, p.Model)
	pol.common = common
	if err := p.decide(src, tensors, pol); err != nil {
		return nil, err
	}
	if err := p.checkPatterns(pol); err != nil {
		return nil, err
	}
	if n := p.outputTensors(); n > checkpoint.MaxTensors {
		return nil, &SourceError{Path: src.Path, Msg: fmt.Sprintf("the output would have %d tensors, sidecars included; want at most %d", n, checkpoint.MaxTensors),
			Hint: "keep some with --skip"}
	}
	if err := p.chooseDType(src, opt); err != nil {
		return nil, err
	}
	if p.Totals.QuantCount == 0 {
		return nil, p.nothing(opt)
	}
	if err := p.checkTargets(opt); err != nil {
		return nil, err
	}
	p.checkReads(opt)
	if err := p.checkInputs(opt); err != nil {
		return nil, err
	}
	if err := p.layOut(opt); err != nil {
		return nil, err
	}
	if p.config == nil {
		return p, nil
	}
	object, err := p.quantizationConfig(opt)
	if err != nil {
		return nil, err
	}
	return p, p.directory(weights.TorchName(p.RunDType), object)
}

// resolve finds the family of a model directory.
func (p *Plan) resolve(src *checkpoint.Source, tensors []logical) error {
	if src.Config == nil {
		return nil
	}
	cfg, err := checkpoint.ParseConfig(src.Config)
	if err != nil {
		return err
	}
	q, err := arch.ParseConfig(cfg.Strict())
	if err != nil {
		return &SourceError{Path: src.Path, Msg: err.Error()}
	}
	p.config = cfg
	names := make([]string, len(tensors))
	for i, t := range tensors {
		names[i] = t.name
	}
	p.Model, err = arch.Resolve(q, names)
	if err != nil {
		p.Model = arch.Unknown(q)
		p.Notices = append(p.Notices, fmt.Sprintf(
			"%v: only tensors whose names mark them as projections of the layers are quantized", err))
	}
	p.Notices = append(p.Notices, p.Model.Notes...)
	return nil
}

// decide fills the items.
func (p *Plan) decide(src *checkpoint.Source, tensors []logical, pol *policy) error {
	var misread []arch.Tensor
	p.Items = slices.Grow(p.Items, len(tensors)) // an Item is large, and there may be half a million
	for _, t := range tensors {
		if !supported(t.dtype) {
			return &SourceError{Path: src.Path, Tensor: t.name,
				Msg: fmt.Sprintf("dtype %s is not supported as a source; want F64, F32, F16 or BF16 weights", t.dtype)}
		}
		c := pol.classify(t.name, len(t.shape))
		if c.Split && len(t.shape) == 3 {
			parts, err := split(t, c)
			if err != nil {
				return &SourceError{Path: src.Path, Tensor: t.name, Msg: err.Error()}
			}
			for _, part := range parts {
				p.add(part.logical, pol.decide(part.name, t.dtype, part.shape, part.class))
			}
			continue
		}
		d := pol.decide(t.name, t.dtype, t.shape, c)
		if d.misread {
			misread = append(misread, arch.Tensor{Name: t.name, Class: c})
		}
		p.add(t, d)
	}
	p.noteMisread(misread, pol)
	kinds(p.Items)
	return nil
}

// add appends the item of a logical tensor and what was decided about it.
func (p *Plan) add(t logical, d decision) {
	it := Item{
		Name: t.name, File: t.file, DType: t.dtype, Shape: t.shape, Source: t.data, SrcBytes: t.bytes, cache: t.cache,
		Quantize: d.quantize, Spec: d.spec, Reason: d.reason, Class: d.class, elem: kernelElem(t.dtype), index: len(p.Items),
	}
	if d.class.Conv1D && d.quantize != t.asOut { // packed as [out, in], kept as [in, out]
		in, out := t.shape[0], t.shape[1]
		it.Source, it.cache = transposed{src: t.data, in: in, out: out, stride: out, size: int64(t.dtype.Bits() / 8)}, nil
		it.Shape = []int64{out, in}
	}
	p.Items = append(p.Items, it)
	p.Totals.Params += it.Elems()
	p.Totals.SrcBytes += it.SrcBytes
	if d.quantize {
		p.Totals.QuantCount++
		p.Totals.QuantParams += it.Elems()
		return
	}
	p.Totals.KeptCount++
	if d.class.Expert && !d.class.Router {
		p.Totals.ExpertParams += it.Elems()
		if d.class.Module {
			p.Totals.PackableExperts += it.Elems()
		}
	}
}

// supported reports whether a tensor of this dtype can be written: floats are
// rounded to the run dtype, integers and booleans copied.
func supported(d safetensors.DType) bool {
	switch d {
	case safetensors.F8_E4M3, safetensors.F8_E5M2, safetensors.F8_E8M0, safetensors.F4, safetensors.F6_E2M3, safetensors.F6_E3M2:
		return false
	}
	return true
}

// chooseDType settles the run dtype: --dtype, else config.json's, else that of
// most quantizable bytes, else bfloat16.
func (p *Plan) chooseDType(src *checkpoint.Source, opt *Options) error {
	run, auto, _ := opt.dtypes()
	if auto {
		var err error
		if run, err = p.configDType(); err != nil {
			run = safetensors.BF16
			bytes := map[safetensors.DType]int64{}
			var most int64
			for i := range p.Items {
				if it := &p.Items[i]; it.Quantize {
					bytes[it.DType] += it.SrcBytes
					most = max(most, bytes[it.DType])
				}
			}
			if most > 0 && bytes[safetensors.F16] == most && bytes[safetensors.BF16] != most {
				run = safetensors.F16
			}
		}
	}
	p.RunDType = run
	for i := range p.Items {
		it := &p.Items[i]
		if !it.Quantize {
			p.keep(it, opt.targets())
		} else if it.DType == safetensors.F64 {
			it.Source, it.elem = narrowed{it.Source}, kernel.F32
		}
	}
	return nil
}

// keep settles the dtype in which an unquantized tensor is written: floats in
// the run dtype, but for two kinds. What transformers holds in float32 although
// the model has that dtype is written so, since a ".weight" keeps the dtype of its
// file from 5.21 on. Rotary frequencies are buffers, which no loader casts.
func (p *Plan) keep(it *Item, t arch.Target) {
	it.Out = it.DType
	if !isFloat(it.DType) || strings.HasSuffix(it.Name, "inv_freq") {
		return
	}
	it.Out = p.RunDType
	if it.Class.Float32(t, p.RunDType == safetensors.F16) {
		it.Out = safetensors.F32
	}
	if it.DType == safetensors.F64 {
		it.Source, it.elem = narrowed{it.Source}, kernel.F32
	}
}

func (p *Plan) configDType() (safetensors.DType, error) {
	if p.config == nil {
		return 0, errors.New("no config.json")
	}
	return runDType(p.config.DType())
}

// inFileOrder lists the tensors by file and then by place, so that the source
// is read from its beginning to its end.
func inFileOrder(src *checkpoint.Source) []checkpoint.Tensor {
	order := make(map[*checkpoint.Shard]int, len(src.Shards))
	for i, sh := range src.Shards {
		order[sh] = i
	}
	return slices.SortedFunc(slices.Values(src.Tensors), func(a, b checkpoint.Tensor) int {
		return cmp.Or(cmp.Compare(order[a.Shard], order[b.Shard]), cmp.Compare(a.Offset(), b.Offset()), cmp.Compare(a.Name, b.Name))
	})
}

// outputTensors is how many tensors the output has, before any of them is laid out.
func (p *Plan) outputTensors() int {
	n := 0
	for i := range p.Items {
		switch it := &p.Items[i]; {
		case !it.Quantize:
			n++
		case it.Spec.NoDoubleQuant:
			n += 4 // codes, scales, their table, the record
		default:
			n += 6 // and the constants and the table of the second level
		}
	}
	return n
}

// layOut gives every output tensor its shard and place.
func (p *Plan) layOut(opt *Options) error {
	groups := make([]checkpoint.Group, len(p.Items))
	for i := range p.Items {
		it := &p.Items[i]
		g := &groups[i]
		g.Name = it.Name
		if it.Quantize {
			var err error
			g.Entries, err = it.Spec.Entries(it.Name, [2]int64(it.Shape))
			if err != nil {
				return &SourceError{Path: p.Source.Path, Tensor: it.Name, Msg: err.Error(),
					Hint: "keep it with --skip or use --quant-storage uint8"}
			}
		} else {
			g.Entries = []safetensors.Entry{{Name: it.Name, DType: it.Out, Shape: it.Shape}}
		}
		it.OutBytes = groupSize(g.Entries)
		p.Totals.OutBytes += it.OutBytes
		if it.Quantize {
			size, err := it.Spec.Size(it.Shape...)
			if err != nil {
				return &SourceError{Path: p.Source.Path, Tensor: it.Name, Msg: err.Error()}
			}
			p.Totals.QuantBytes += size.Total
			p.Totals.CodeBytes += size.Data
		}
	}
	return p.shards(groups, opt.MaxShardSize)
}

// shards splits groups over files and fixes the layout of each.
func (p *Plan) shards(groups []checkpoint.Group, maxSize int64) error {
	base := p.Source.Base
	switch {
	case p.Model != nil && p.Model.Diffusers: // also where the source is one file, such as diffusion_pytorch_model.fp16.safetensors
		base = checkpoint.DiffusersBase
	case base == "":
		base = "model"
	}
	files, err := checkpoint.SplitShards(groups, maxSize, base)
	if err != nil {
		return err
	}
	p.shardOf = map[string]int{}
	fileOf := map[string]string{}
	for s, f := range files {
		for _, e := range f.Entries {
			if _, ok := p.shardOf[e.Name]; ok {
				return &SourceError{Path: p.Source.Path, Tensor: e.Name,
					Msg: "two tensors of the output would have this name"}
			}
			p.shardOf[e.Name] = s
			fileOf[e.Name] = f.Name
		}
		l, err := safetensors.NewLayout(f.Entries, map[string]string{"format": "pt"})
		if err != nil {
			return fmt.Errorf("lay out %s: %w", f.Name, err)
		}
		p.Shards = append(p.Shards, Shard{f.Name, l})
		p.Totals.FileBytes += l.Size()
	}
	for i := range p.Items {
		p.Items[i].Shard = p.shardOf[p.Items[i].Name]
	}
	if len(files) > 1 {
		ix := checkpoint.Index{TotalParameters: p.Totals.Params, TotalSize: p.Totals.OutBytes, WeightMap: fileOf}
		p.Index, p.indexName = ix.Encode(), checkpoint.IndexName(base)
	}
	return nil
}

func groupSize(entries []safetensors.Entry) int64 {
	var sum int64
	for _, e := range entries {
		n := int64(e.DType.Bits())
		for _, d := range e.Shape {
			n *= d
		}
		sum += n / 8
	}
	return sum
}

// kinds names the kind of every item: the last component of the module where
// that is unmistakable in this model, else its path below the layer number.
func kinds(items []Item) {
	paths := make([]string, len(items))
	byLeaf := map[string]map[string]bool{}
	for i := range items {
		if !items[i].Quantize && items[i].packed == nil {
			continue
		}
		paths[i] = kindPath(items[i].Name)
		leaf := paths[i][strings.LastIndexByte(paths[i], '.')+1:]
		if byLeaf[leaf] == nil {
			byLeaf[leaf] = map[string]bool{}
		}
		byLeaf[leaf][paths[i]] = true
	}
	for i := range items {
		if paths[i] == "" {
			continue
		}
		leaf := paths[i][strings.LastIndexByte(paths[i], '.')+1:]
		items[i].Kind = leaf
		if len(byLeaf[leaf]) > 1 || leaf == "#" {
			items[i].Kind = paths[i]
		}
	}
}

// kindPath is a module's path below the first number in it, other numbers as '#'.
func kindPath(name string) string {
	parts := strings.Split(strings.TrimSuffix(name, ".weight"), ".")
	from := 0
	for i, c := range parts {
		if isNumber(c) {
			if from == 0 {
				from = i + 1
			}
			parts[i] = "#"
		}
	}
	if from == 0 || from == len(parts) {
		return strings.Join(parts, ".")
	}
	return strings.Join(parts[from:], ".")
}

func isNumber(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
