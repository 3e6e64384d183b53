package weights

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/panel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Model is a checkpoint as the tensors that its model has: decoded where a method has quantized them, put together where a
// quantized checkpoint holds them apart, each with what the table of architectures says of it.
type Model struct {
	Source  *checkpoint.Source
	Config  *checkpoint.Config // nil without a config.json, as are Query and Arch
	Query   arch.Query
	Arch    *arch.Model
	Unknown error // why Arch goes by names alone, if it does

	Quantized *fourbit.Quantized // by what; nil if the weights are plain
	Stale     *fourbit.Quantized // what the checkpoint says otherwise than its tensors; nil if nothing
	Scheme    *decode.Scheme     // by which it was decoded; nil if the weights are plain
	FourBit   *fourbit.Groups    // of bitsandbytes' 4 bits, its weights as they are stored; nil for all else

	// Tensors are in the order of the source's files, then of offsets; decoded ones where the first of their parts is.
	Tensors []Tensor

	panels  *panel.Cache
	regions *panel.Cache // see region
}

// Open joins a checkpoint, the way to decode it and the table of architectures. It reads headers, and what decides how
// weights are decoded: of bitsandbytes' 4 bits the records and the second level of the scales. A method that nobody can undo
// is a [*SourceError], as are all problems of the content but those of 4-bit weights, each a [*fourbit.Problem].
func Open(src *checkpoint.Source) (*Model, error) {
	return open(src, false)
}

// OpenUnpacked is Open for a checkpoint that is to be quantized: one that is in 4 bits already is refused, before anything
// of it is read.
func OpenUnpacked(src *checkpoint.Source) (*Model, error) { return open(src, true) }

func open(src *checkpoint.Source, unpacked bool) (*Model, error) {
	q, stale, err := Quantized(src)
	if err != nil {
		return nil, err
	}
	m := &Model{Source: src, Quantized: q, Stale: stale, panels: panel.NewCache(panelBytes)}
	if unpacked && q != nil && q.FourBit {
		return nil, refusal(src, q)
	}
	if err := m.decode(); err != nil {
		return nil, err
	}
	m.list()
	if err := m.resolve(); err != nil || m.Arch == nil {
		return m, err
	}
	if m.FourBit != nil {
		if err := m.fuse(); err != nil {
			return nil, err
		}
	}
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if t.Parts == nil {
			t.Class = m.Arch.ClassifyTensor(t.Name, len(t.Shape))
		}
		t.Turned = t.Class.Conv1D && t.Method == bitsandbytes
	}
	return m, nil
}

// decode finds the scheme of a quantized checkpoint.
func (m *Model) decode() (err error) {
	if m.Quantized == nil {
		return nil
	}
	if m.Quantized.Method != bitsandbytes {
		m.Scheme, err = schemeOf(m.Source, m.Quantized)
		return err
	}
	groups, err := fourbit.Group(BnbTensors(m.Source))
	if err != nil {
		return err
	}
	if len(groups.Weights) == 0 && !m.Quantized.FourBit {
		m.Scheme, err = schemeOf(m.Source, m.Quantized)
		return err
	}
	if bad := groups.Errors(); len(bad) > 0 {
		return bad[0]
	}
	m.FourBit = groups
	m.Scheme, err = groups.Scheme(m.Quantized.Label)
	return err
}

// list lists the tensors. Those of a quantization scheme stand where the first of their parts does.
func (m *Model) list() {
	decoded := map[string]*decode.Logical{}
	if m.Scheme != nil {
		for i := range m.Scheme.Logical {
			l := &m.Scheme.Logical[i]
			decoded[l.Parts[0]] = l
		}
	}
	sorted := inFileOrder(m.Source)
	n := len(sorted)
	if m.Scheme != nil {
		n += len(m.Scheme.Logical) - m.Scheme.Consumed()
	}
	m.Tensors = make([]Tensor, 0, n) // one is large, and a scheme's may be a fraction of what is stored
	for _, t := range sorted {
		switch l := decoded[t.Name]; {
		case l != nil:
			m.Tensors = append(m.Tensors, Tensor{Name: l.Name, File: t.Shard.Name, DType: l.DType, Shape: l.Shape, Bytes: l.SrcBytes,
				Values: Unhinted(l.Open()), Method: m.Scheme.Method})
		case m.Scheme != nil && m.Scheme.Consumes(t.Name):
		default:
			m.Tensors = append(m.Tensors, Tensor{Name: t.Name, File: t.Shard.Name, DType: t.DType, Shape: t.Shape, Bytes: t.Size(),
				Values: stored{t}})
		}
	}
}

// resolve finds the family of a model directory.
func (m *Model) resolve() (err error) {
	if m.Source.Config == nil {
		return nil
	}
	if m.Config, err = checkpoint.ParseConfig(m.Source.Config); err != nil {
		return err
	}
	if m.Query, err = arch.ParseConfig(m.Config.Strict()); err != nil {
		return &SourceError{Path: m.Source.Path, Msg: err.Error()}
	}
	names := make([]string, len(m.Tensors))
	for i := range m.Tensors {
		names[i] = m.Tensors[i].Name
	}
	if m.Arch, m.Unknown = arch.Resolve(m.Query, names); m.Unknown != nil {
		m.Arch = arch.Unknown(m.Query)
	}
	return nil
}

// inFileOrder lists the tensors by file and then by place, so that the source is read from its beginning to its end.
func inFileOrder(src *checkpoint.Source) []checkpoint.Tensor {
	byShard := make(map[*checkpoint.Shard][]checkpoint.Tensor, len(src.Shards))
	for _, t := range src.Tensors {
		byShard[t.Shard] = append(byShard[t.Shard], t)
	}
	out := make([]checkpoint.Tensor, 0, len(src.Tensors))
	for _, sh := range src.Shards {
		list := byShard[sh]
		slices.SortFunc(list, func(a, b checkpoint.Tensor) int {
			if c := cmp.Compare(a.Offset(), b.Offset()); c != 0 {
				return c
			}
			return cmp.Compare(a.Name, b.Name)
		})
		out = append(out, list...)
	}
	return out
}

// A SourceError reports a checkpoint that is sound but of no use for what is asked: quantized in a way that nobody can undo,
// with nothing to quantize, of a layout that is not supported.
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

// IsFloat reports whether a dtype is a float of 16 to 64 bits.
func IsFloat(d safetensors.DType) bool {
	_, ok := ElemOf(d)
	return ok
}
