package convert

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A SourceError reports a source that cannot be converted as asked.
type SourceError = weights.SourceError

// An OptionError reports options that do not fit the checkpoint.
type OptionError struct{ Msg string }

func (e *OptionError) Error() string { return e.Msg }

// An Item is one tensor of the source and what becomes of it.
type Item struct {
	*weights.Tensor
	Kind     string  // what kind of module it is: q_proj, attention.output.dense, ...
	Shape    []int64 // in the output; [out, in] of a quantized weight, before it is packed
	OutBytes int64   // bytes in the output, sidecars included

	Quantize bool
	Spec     bnb.Format
	Out      safetensors.DType // dtype of a kept tensor in the output
	Reason   string            // why it is kept
	Shard    int
	Stack    int64 // matrices below each other in Shape, of a stack of experts that is packed whole; else 0

	index  int
	packed map[string]*safetensors.Tensor // parts that are copied, see packedParts; nil: the weight is quantized
	offset float32                        // of their scales
}

// across reports whether the output has the transpose of what is read: of a matrix, or of the parts of a stack of experts.
func (it *Item) across() bool {
	return it.Parts != nil || !it.Quantize && it.Turned && it.Class.Conv1D
}

// sources are the tensors that the item is made of.
func (it *Item) sources() []*weights.Tensor {
	if it.Of != nil {
		return it.Of
	}
	return []*weights.Tensor{it.Tensor}
}

// State is the quant_state record of a quantized item, without the offset.
func (it *Item) State(run safetensors.DType) *bnb.State {
	return &bnb.State{Format: it.Spec, DType: decodedDType(run), Shape: [2]int64(it.Shape), Stack: it.Stack}
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
	src        *checkpoint.Source
	model      *arch.Model // nil for a bare file
	runDType   safetensors.DType
	items      []Item // in the order of the source's files, then of offsets
	shards     []Shard
	configJSON []byte // config.json of the output; nil if the source has none
	indexJSON  []byte // model.safetensors.index.json; nil for a single file
	skipList   []string
	sides      []checkpoint.SideFile // to copy
	skipped    []checkpoint.Skipped  // not copied, and why
	notices    []string              // what a user should know
	warnings   []string              // what may not work

	incomplete []string // of the warnings, what the source lacks or has too much

	unsloth bool // there are experts in 4 bits that Unsloth alone reads

	stats Stats

	inputs    Inputs
	shared    map[string]*quantize.Shared // by their entry, see Inputs
	words     *quantize.Words             // of which none may be a NaN
	shardOf   map[string]int
	indexName string
	config    *checkpoint.Config // of the source; nil if it has none
}

// Stats are sums over the items.
type Stats struct {
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
func (t Stats) BitsPerParam() float64 { return ratio(8*float64(t.OutBytes), t.Params) }

// QuantBitsPerParam is that of the quantized part, tables and records included.
func (t Stats) QuantBitsPerParam() float64 { return ratio(8*float64(t.QuantBytes), t.QuantParams) }

// CodeBitsPerParam counts codes and constants alone: 4.127 for NF4 in blocks
// of 64 with double quantization, 4.5 without (QLoRA, arXiv 2305.14314, section 3).
func (t Stats) CodeBitsPerParam() float64 { return ratio(8*float64(t.CodeBytes), t.QuantParams) }

// Source is what is converted.
func (p *Plan) Source() *checkpoint.Source { return p.src }

// Model is what the table of architectures says of the source; nil for a bare file.
func (p *Plan) Model() *arch.Model { return p.model }

// RunDType is the dtype that the model computes in and that tensors which stay are written in.
func (p *Plan) RunDType() safetensors.DType { return p.runDType }

// Items are the tensors of the source and what becomes of each, in the order of its files, then of offsets.
// They belong to the plan: read, never changed.
func (p *Plan) Items() []Item { return p.items }

// Shards are the weights files of the output.
func (p *Plan) Shards() []Shard { return p.shards }

// Config is config.json of the output; nil if the source has none.
func (p *Plan) Config() []byte { return p.configJSON }

// Index is model.safetensors.index.json of the output; nil for a single file.
func (p *Plan) Index() []byte { return p.indexJSON }

// SkipList is llm_int8_skip_modules of the output's config.json.
func (p *Plan) SkipList() []string { return p.skipList }

// Sides are the side files that are copied.
func (p *Plan) Sides() []checkpoint.SideFile { return p.sides }

// Skipped are the files of the source that are not copied, and why.
func (p *Plan) Skipped() []checkpoint.Skipped { return p.skipped }

// Notices are what a user should know.
func (p *Plan) Notices() []string { return p.notices }

// Warnings are what may not work.
func (p *Plan) Warnings() []string { return p.warnings }

// Incomplete are those of the warnings that say what the source lacks or has too much.
func (p *Plan) Incomplete() []string { return p.incomplete }

// Stats are the plan's sums.
func (p *Plan) Stats() Stats { return p.stats }

// TorchDType is the run dtype as torch spells it, "bfloat16".
func (p *Plan) TorchDType() string { return weights.TorchName(p.runDType) }

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
	m, err := weights.OpenUnpacked(src)
	if err != nil {
		return nil, err
	}
	return PlanModel(m, opt)
}

// PlanModel is [NewPlan] for an opened model, whose tensors may have been changed.
func PlanModel(m *weights.Model, opt Options) (*Plan, error) {
	if err := opt.Validate(); err != nil {
		return nil, &OptionError{err.Error()}
	}
	p, err := newPlan(m, &opt, false)
	var conflict *skipConflict
	if errors.As(err, &conflict) {
		// No skip list holds in every loader for what 5.x quantizes. What both
		// versions quantize is a smaller set, and mostly one that can be listed.
		p, err = newPlan(m, &opt, true)
		if errors.As(err, &conflict) {
			return nil, conflict.SourceError
		}
	}
	if err != nil {
		return nil, err
	}
	if m.Stale != nil {
		p.warnings = append(p.warnings, weights.Stale(m.Stale, m.Quantized))
	}
	return p, nil
}

// planOf is the plan of a model before anything is decided.
func planOf(m *weights.Model) *Plan {
	return &Plan{src: m.Source, model: m.Arch, config: m.Config}
}

// newPlan is NewPlan for one reading of the default set, see [policy.inSet].
func newPlan(m *weights.Model, opt *Options, common bool) (*Plan, error) {
	p := planOf(m)
	switch scheme := m.Scheme; {
	case scheme == nil:
	case len(scheme.Logical) == 0:
		p.notices = append(p.notices, fmt.Sprintf("config.json says %s, but no weight is quantized: taken as plain", scheme.Label))
	default:
		p.notices = append(p.notices, fmt.Sprintf("the source is quantized by %s: %d weights are decoded on the way", scheme.Label, len(scheme.Logical)))
	}
	if m.Unknown != nil {
		p.notices = append(p.notices, fmt.Sprintf(
			"%v: only tensors whose names mark them as projections of the layers are quantized", m.Unknown))
	}
	if m.Arch != nil {
		p.notices = append(p.notices, m.Arch.Notes...)
	}
	if err := p.checkComplete(m, opt.AllowIncomplete); err != nil {
		return nil, err
	}
	opt, err := opt.forModel(p.model)
	if err != nil {
		return nil, err
	}
	pol := newPolicy(opt, p.model)
	pol.common = common
	if err := p.decide(m, pol); err != nil {
		return nil, err
	}
	if err := p.checkPatterns(pol); err != nil {
		return nil, err
	}
	if err := p.chooseDType(opt); err != nil {
		return nil, err
	}
	if p.stats.QuantCount == 0 {
		return nil, p.nothing(opt)
	}
	if err := p.checkTargets(opt); err != nil {
		return nil, err
	}
	if opt.targets()&arch.Unsloth != 0 {
		if opt.joinsExperts() {
			p.joinExperts(m)
		}
		if err := p.checkAlone(); err != nil {
			return nil, err
		}
		p.noteRagged(opt)
		p.unsloth = slices.ContainsFunc(p.items, func(it Item) bool { return it.Quantize && (it.Stack > 0 || ExpertStack(it.Name) != "") })
	}
	if n := p.outputTensors(); n > checkpoint.MaxTensors {
		return nil, &SourceError{Path: p.src.Path, Msg: fmt.Sprintf("the output would have %d tensors, sidecars included; want at most %d", n, checkpoint.MaxTensors),
			Hint: "keep some with --skip"}
	}
	p.checkReads(opt)
	p.checkOlder(opt)
	if !opt.ExactStorage {
		p.words = quantize.WordsOf(opt.Spec.Storage)
	}
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
	return p, p.directory(weights.TorchName(p.runDType), object)
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
