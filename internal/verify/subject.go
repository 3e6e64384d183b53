package verify

import (
	"slices"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
)

// A subject is a checkpoint with what its config.json and the table of architectures say of it.
type subject struct {
	src     *checkpoint.Source
	groups  *fourbit.Groups
	cfg     *checkpoint.Config // nil without a config.json
	query   arch.Query         // what it says of the architecture
	model   *arch.Model        // nil without a config.json, or of a type that the table does not have
	unknown error              // why model is nil though there is a config.json
	targets arch.Target        // never 0
	asked   bool               // the targets are not the default

	kept, quantized []arch.Tensor // see modules
}

// newSubject resolves the model. With targets 0 it is meant for the loaders that have its class.
func newSubject(src *checkpoint.Source, groups *fourbit.Groups, targets arch.Target) (*subject, error) {
	s := &subject{src: src, groups: groups, targets: targets, asked: targets != 0}
	if targets == 0 {
		s.targets = arch.Transformers5 | arch.Transformers4
	}
	if src.Config == nil {
		return s, nil
	}
	var err error
	if s.cfg, err = checkpoint.ParseConfig(src.Config); err != nil {
		return nil, err
	}
	if s.query, err = arch.ParseConfig(s.cfg.Strict()); err != nil {
		return nil, err
	}
	var names []string
	for _, t := range groups.Plain {
		names = append(names, t.Name)
	}
	for _, w := range groups.Weights {
		names = append(names, w.Name)
	}
	model, err := arch.Resolve(s.query, names)
	if err != nil {
		s.unknown = err
		return s, nil
	}
	s.model = model
	if s.targets, err = model.Targets(targets); err != nil {
		return nil, &convert.OptionError{Msg: err.Error()}
	}
	if !s.asked {
		by, _ := s.unread()
		s.targets &^= s.lacking() | by | s.renamed()
	}
	return s, nil
}

// lacking returns those of the targets that do not have the model's class.
func (s *subject) lacking() arch.Target {
	var t arch.Target
	if !s.model.In[arch.V5] {
		t |= arch.Transformers5
	}
	if !s.model.In[arch.V4] {
		t |= arch.Transformers4 | arch.Diffusers
	}
	return t & s.targets
}

// unread returns those of the targets that do not read config.json as transformers 5 wrote it, and why.
func (s *subject) unread() (by arch.Target, why string) {
	if why = convert.Unread(s.src.Config); why == "" {
		return 0, ""
	}
	return arch.Transformers4 & s.targets, why
}

// renamed returns those of the targets that do not look for a packed weight under the name that transformers 5 gave it.
func (s *subject) renamed() arch.Target {
	_, quantized := s.modules()
	if slices.ContainsFunc(quantized, func(t arch.Tensor) bool { return t.Class.Renamed() }) {
		return arch.Transformers4 & s.targets
	}
	return 0
}

// modules are the Linears of the checkpoint, plain and packed. With no model it is a mistake to ask.
func (s *subject) modules() (kept, quantized []arch.Tensor) {
	if s.kept != nil || s.quantized != nil {
		return s.kept, s.quantized
	}
	for _, t := range s.groups.Plain {
		c := s.model.ClassifyTensor(t.Name, len(t.Shape))
		if c.Module && (len(t.Shape) == 2 || !c.Stray) { // of no row, it is a convolution's where it is no matrix
			s.kept = append(s.kept, arch.Tensor{Name: t.Name, Class: c})
		}
	}
	for _, w := range s.groups.Weights {
		s.quantized = append(s.quantized, arch.Tensor{Name: w.Name, Class: s.model.Classify(w.Name)})
	}
	return s.kept, s.quantized
}
