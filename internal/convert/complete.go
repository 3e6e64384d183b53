package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/complete"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// checkComplete refuses a checkpoint that lacks what its class and config.json call for, or holds what they do not have. With allow,
// the problems are warnings.
func (p *Plan) checkComplete(m *weights.Model, allow bool) error {
	r, err := Lacking(m)
	if err != nil || r == nil {
		return err
	}
	p.notices = append(p.notices, r.Notices...)
	switch {
	case r.Count() == 0:
		return nil
	case !allow:
		return &IncompleteError{Path: p.src.Path, Report: r}
	}
	p.incomplete = r.Lines()
	p.warnings = append(p.warnings, p.incomplete...)
	return nil
}

// Lacking holds a model to its class and config.json. A bare file is held to nothing: it need not be a model, and the report is nil.
func Lacking(m *weights.Model) (*complete.Report, error) {
	if m.Arch == nil {
		return nil, nil
	}
	tensors := make([]complete.Tensor, len(m.Tensors))
	for i := range m.Tensors {
		t := &m.Tensors[i]
		tensors[i] = complete.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Turned: t.Turned}
	}
	r, err := Completeness(m.Config, m.Arch, tensors)
	if err != nil {
		return nil, &SourceError{Path: m.Source.Path, Msg: err.Error()}
	}
	return r, nil
}

// Completeness holds tensors to the class of a model and what config.json says of it.
func Completeness(cfg *checkpoint.Config, m *arch.Model, tensors []complete.Tensor) (*complete.Report, error) {
	q, err := arch.ParseConfig(cfg.Strict())
	if err != nil {
		return nil, err
	}
	return complete.Check(m, q, cfg.Strict(), tensors)
}

// An IncompleteError reports a checkpoint that is not what its config.json says.
type IncompleteError struct {
	Path   string
	Report *complete.Report
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s: the checkpoint is not complete: %s", e.Path, e.Report.Summary())
}

// Unwrap makes it a SourceError to those who ask for the kind.
func (e *IncompleteError) Unwrap() error {
	return &SourceError{Path: e.Path, Msg: e.Report.Summary(), Hint: e.Report.Hint}
}
