package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/report"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// tell writes the reports, and prints what was merged and what became of it.
func (m *merging) tell(ctx context.Context, jobs int, took time.Duration) error {
	o, g := m.o, m.g
	r, err := m.report(ctx, jobs)
	if err != nil {
		return err
	}
	if !o.DryRun {
		if err := writeReports(r, o.Reports); err != nil {
			return err
		}
	}
	if g.JSON {
		return writeJSON(g.Stdout, m.json(r.Merge, took))
	}
	if g.Quiet {
		return nil
	}
	t := m.plan.Stats()
	to := "dry run: nothing is written"
	if !o.DryRun {
		to = "in " + durationText(took)
	}
	escape.Fprintf(g.Stdout, "%s + %s -> %s (%s)\n%d of %d tensors changed; %s\n", o.Src, strings.Join(o.Adapters, " + "), o.Dst, to, m.merge.Changed(),
		len(m.plan.Items()), bytesText(t.OutBytes))
	m.print(r.Merge)
	return nil
}

// report measures what is left of the updates, and composes the report.
func (m *merging) report(ctx context.Context, jobs int) (*report.Report, error) {
	o := m.o
	r := report.New(nil)
	if len(m.results) > 0 {
		s, err := newSummary(o.ConvertOptions, m.plan, m.results)
		if err != nil {
			return nil, err
		}
		r = s.report
	}
	r.Command, r.Tool, r.Source, r.Destination = "lora merge", "nf4kit "+versionText(), o.Src, o.Dst
	r.Merge = &report.Merge{Adapters: o.Adapters, Changed: m.merge.Changed(), Notes: append([]string{}, m.merge.Notes...), Tensors: []report.Update{}}
	if o.TrainedOn != "" {
		r.Merge.Onto = m.base.Source.Path
	}
	if o.DryRun || o.NoError {
		return r, nil
	}
	if o.Quantize {
		if err := m.survivors(ctx, r.Merge, jobs); err != nil {
			return nil, err
		}
	}
	if m.other != nil {
		if err := m.merge.Compare(ctx, m.other, jobs); err != nil {
			return nil, err
		}
	}
	list, total := m.merge.Figures(), m.merge.Total()
	if len(list) == 0 {
		return r, nil
	}
	for _, f := range list {
		r.Merge.Tensors = append(r.Merge.Tensors, m.update(f))
	}
	for _, f := range lora.ByKind(list) {
		r.Merge.Kinds = append(r.Merge.Kinds, m.update(f))
	}
	all := m.update(total)
	r.Merge.Total = &all
	return r, nil
}

func (m *merging) update(f lora.Figures) report.Update {
	u := report.Update{Tensor: f.Tensor, Rank: f.Rank, Relative: f.Relative, Max: f.Max, Survives: f.Survives, Lost: f.Lost}
	if m.other != nil {
		u.Gap = &f.Gap
	}
	if !math.IsNaN(f.Otherwise) {
		u.Otherwise = &f.Otherwise
	}
	return u
}

// survivors reads what was quantized back, and measures what would be left with other scales.
func (m *merging) survivors(ctx context.Context, r *report.Merge, jobs int) error {
	written, done, err := openModels(ctx, m.g, m.o.Dst)
	if err != nil {
		return err
	}
	defer done()
	scale, err := m.o.choose()
	if err != nil {
		return err
	}
	other := bnb.AbsMax
	if scale == bnb.AbsMax {
		other = bnb.MSESigned
	}
	r.Otherwise = other.String()
	items := map[string]*convert.Item{}
	for i := range m.plan.Items() {
		items[m.plan.Items()[i].Name] = &m.plan.Items()[i]
	}
	return m.merge.Survivors(ctx, written[0], func(name string) (*lora.Alternative, error) {
		it := items[name]
		if it == nil || !it.Quantize || it.Spec.Scale == other || it.Class.Conv1D { // a Conv1D's blocks lie across
			return nil, nil
		}
		var moments []float32
		if m.inputs != nil {
			if moments, err = m.inputs.Columns(name, it.Shape[1]); err != nil {
				return nil, err
			}
		}
		return lora.NewAlternative(it.Spec, other, moments)
	}, jobs)
}

func (m *merging) print(r *report.Merge) {
	shown := r.Kinds
	if m.g.Verbose {
		shown = r.Tensors
	}
	head, rows := r.Table(shown)
	if head == nil {
		return
	}
	fmt.Fprintln(m.g.Stdout)
	t := newTable(m.g.Stdout)
	t.AppendHeader(rowOf(head))
	alignRight(t, 2, len(head))
	for _, cells := range rows {
		t.AppendRow(rowOf(cells))
	}
	t.Render()
	if m.o.Quantize && r.Total.Otherwise != nil {
		escape.Fprintf(m.g.Stdout, "by %s: what would survive with scales of that method, from a sample of each weight.\n", r.Otherwise)
	}
	if total := r.Total; total.Survives < 0.5 && total.Relative > 0 {
		advice := "write 16 bits, or quantize the merged 16-bit source with --scale mse-signed"
		warnf(m.g.Stderr, "%.0f %% of the update survives: the steps of the format are larger than it; %s", 100*total.Survives, advice)
	}
}

// rowOf is a row of texts.
func rowOf(cells []string) []any {
	out := make([]any, len(cells))
	for i, c := range cells {
		out[i] = c
	}
	return row(out...)
}

// mergeJSON is the schema of lora merge --json. The figures have the names that they have in a report.
type mergeJSON struct {
	Schema      string `json:"schema"`
	Base        string `json:"base"`
	Destination string `json:"destination"`
	Quantized   bool   `json:"quantized"`
	report.Merge
	OutputBytes int64   `json:"output_bytes"`
	Bits        float64 `json:"bits_per_parameter"`
	Seconds     float64 `json:"seconds"`
}

func (m *merging) json(r *report.Merge, took time.Duration) any {
	t := m.plan.Stats()
	return mergeJSON{"nf4kit.lora.merge/1", m.o.Src, m.o.Dst, m.o.Quantize, *r, t.OutBytes, t.BitsPerParam(), took.Seconds()}
}
