package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/memplan/source"
)

// preset sets the flags of --preset that were not given.
func (o *PlanOptions) preset(fs *pflag.FlagSet) error {
	if o.Preset == "" {
		return nil
	}
	p, ok := memplan.FindPreset(o.Preset)
	if !ok {
		return usagef("--preset %q: want %s", o.Preset, strings.Join(memplan.PresetNames(), ", "))
	}
	for _, v := range p.Values(memplan.Method(o.Method)) {
		if f := fs.Lookup(v[0]); !f.Changed {
			if err := f.Value.Set(v[1]); err != nil {
				return fmt.Errorf("preset %s: --%s %s: %w", p.Name, v[0], v[1], err)
			}
		}
	}
	return nil
}

// axis is a flag and the values that a sweep gives it.
type axis struct {
	flag   string
	values []string
}

// maxSweep is how many plans a sweep makes.
const maxSweep = 1000

// axes reads rank=8,64; q_proj+v_proj is one value.
func (o *PlanOptions) axes(fs *pflag.FlagSet, specs []string) ([]axis, error) {
	var out []axis
	plans := 1
	for _, spec := range strings.Fields(strings.Join(specs, " ")) {
		flag, list, ok := strings.Cut(spec, "=")
		switch {
		case !ok || list == "":
			return nil, usagef("--sweep %q: want FLAG=VALUE,VALUE such as rank=8,64", spec)
		case fs.Lookup(flag) == nil || flag == "sweep" || flag == "preset" || flag == "html" || flag == "list":
			return nil, usagef("--sweep %s: %q is no flag that a plan can be made with", spec, flag)
		}
		values := strings.Split(list, ",")
		if plans *= len(values); plans > maxSweep {
			return nil, usagef("--sweep: more than %d combinations", maxSweep)
		}
		out = append(out, axis{flag, values})
	}
	return out, nil
}

// swept is one row of a sweep.
type swept struct {
	Values  map[string]string `json:"values"`
	Trained int64             `json:"trained_parameters"`
	Memory  int64             `json:"process"`
	Fits    memplan.Verdict   `json:"verdict,omitempty"`
	values  []string
}

// sweep plans every combination and prints a table of what each takes.
func (o *PlanOptions) sweep(ctx context.Context, g *globals, fs *pflag.FlagSet, specs []string) error {
	axes, err := o.axes(fs, specs)
	if err != nil {
		return err
	}
	t, err := o.target()
	if err != nil {
		return err
	}
	src, err := await(ctx, func() (*source.Source, error) {
		return source.Open(o.Src, func(src string) (*checkpoint.Source, error) { return g.openSource(ctx, src) })
	})
	if err != nil {
		return err
	}
	g.warn(src.Warnings)
	var rows []swept
	at := make([]int, len(axes))
	for done := false; !done; {
		row, err := o.sweepRow(fs, src, axes, at, t)
		if err != nil {
			return err
		}
		rows = append(rows, row)
		done = true
		for i := len(axes) - 1; i >= 0 && done; i-- {
			at[i] = (at[i] + 1) % len(axes[i].values)
			done = at[i] == 0
		}
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.plan-sweep/1", "model": src.Model.Name, "sweep": rows})
	}
	printSweep(g.Stdout, src, axes, rows, t)
	return nil
}

// sweepRow is the plan of one combination, with everything else as the command line has it.
func (o *PlanOptions) sweepRow(fs *pflag.FlagSet, src *source.Source, axes []axis, at []int, t *target) (swept, error) {
	row := swept{Values: map[string]string{}}
	var own PlanOptions
	flags := pflag.NewFlagSet("plan", pflag.ContinueOnError)
	own.flags(flags)
	var err error
	fs.VisitAll(func(f *pflag.Flag) { // after the preset
		if to := flags.Lookup(f.Name); err == nil && to != nil && f.Name != "sweep" {
			err = to.Value.Set(f.Value.String())
		}
	})
	for i, a := range axes {
		v := a.values[at[i]]
		row.Values[a.flag] = v
		row.values = append(row.values, v)
		if e := flags.Set(a.flag, strings.ReplaceAll(v, "+", ",")); e != nil && err == nil {
			err = usagef("--sweep %s=%s: %w", a.flag, v, e)
		}
	}
	if err != nil {
		return row, err
	}
	r, err := own.run(src.DType)
	if err != nil {
		return row, fmt.Errorf("--sweep %s: %w", strings.Join(row.values, ", "), err)
	}
	p, err := memplan.New(src.Model, r)
	if err != nil {
		return row, fmt.Errorf("--sweep %s: %w", strings.Join(row.values, ", "), planUsage(err))
	}
	row.Trained, row.Memory = p.Trained, p.Memory.Process
	if t != nil {
		row.Fits = p.Memory.Fit(t.usable)
	}
	return row, nil
}

// printSweep is the table with a bar for what each takes.
func printSweep(w io.Writer, src *source.Source, axes []axis, rows []swept, t *target) {
	escape.Fprintf(w, "%s, %d plans; the rest as the command line has it:\n", src.Model.Name, len(rows))
	most := int64(0)
	for _, r := range rows {
		most = max(most, r.Memory)
	}
	tab := newTable(w)
	head := make([]any, 0, len(axes)+5)
	for _, a := range axes {
		head = append(head, a.flag)
	}
	head = append(head, "trained", "needs", "than the first")
	if t != nil {
		head = append(head, t.name)
	}
	tab.AppendHeader(row(append(head, "")...))
	for _, r := range rows {
		cells := make([]any, 0, len(head)+1)
		for _, v := range r.values {
			cells = append(cells, v)
		}
		more := fmt.Sprintf("%+.2f GiB", float64(r.Memory-rows[0].Memory)/(1<<30))
		cells = append(cells, countText(r.Trained), gibText(r.Memory), more)
		if t != nil {
			cells = append(cells, string(r.Fits))
		}
		tab.AppendRow(row(append(cells, bar(r.Memory, most))...))
	}
	alignRight(tab, len(axes)+1, len(axes)+3)
	tab.Render()
}
