package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
)

// printPlan is --dry-run.
func printPlan(g *globals, o ConvertOptions, p *convert.Plan) error {
	if o.task != (convert.Task{}) {
		return o.tellTask(g, p)
	}
	s, err := newSummary(o, p, nil)
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(g.Stdout, s.json())
	}
	escape.Fprintf(g.Stdout, "%s -> %s (dry run: nothing is written)\n\n", o.Src, o.Dst)
	s.printSizes(g.Stdout)
	if g.Verbose {
		fmt.Fprintln(g.Stdout)
		printDecisions(g.Stdout, p)
	}
	for _, sh := range p.Shards() {
		escape.Fprintf(g.Stdout, "  %s  %s\n", sh.Name, bytesText(sh.Layout.Size()))
	}
	return nil
}

// printDecisions lists what becomes of every tensor and side file, and why.
func printDecisions(w io.Writer, p *convert.Plan) {
	t := newTable(w)
	t.AppendHeader(row("tensor", "shape", "from", "to", "why"))
	for i := range p.Items() {
		it := &p.Items()[i]
		to, why := it.Spec.String(), ""
		if !it.Quantize {
			to, why = it.Out.String(), it.Reason
		}
		t.AppendRow(row(it.Name, shapeText(it.Shape), it.DType.String(), to, why))
	}
	t.Render()
	for _, f := range p.Sides() {
		escape.Fprintf(w, "  copied      %s\n", f.Rel)
	}
	for _, f := range p.Skipped() {
		escape.Fprintf(w, "  not copied  %s: %s\n", f.Rel, f.Reason)
	}
}

func shapeText(shape []int64) string {
	s := make([]string, len(shape))
	for i, d := range shape {
		s[i] = fmt.Sprint(d)
	}
	return "[" + strings.Join(s, ", ") + "]"
}
