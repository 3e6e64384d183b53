package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/escape"
)

//go:embed page.html
var pageText string

// page is parsed when it is asked for: most runs write none.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{"line": escape.Line}).Parse(pageText))
})

// A metric is a figure that the page's table of tensors can show.
type metric struct {
	Name    string `json:"name"`
	Digits  int    `json:"digits"`
	Exp     bool   `json:"exp,omitempty"`
	Percent bool   `json:"percent,omitempty"`
	column  Column
}

// metrics are the columns that have a label and something in them. The first is also that of the heat map.
func (r *Report) metrics() []metric {
	var first, rest []metric
	for _, c := range columns {
		switch m := (metric{c.Label, c.style.digits, c.style.exp, c.style.percent, c}); {
		case c.Label == "" || !r.has(c):
		case c.Key == keyRelRMSE:
			first = append(first, m)
		default:
			rest = append(rest, m)
		}
	}
	return append(first, rest...)
}

// The data of the page, kept short: a model of 1,000 tensors in six formats is to stay below 2 MB.
type pageData struct {
	Formats []pageFormat `json:"formats"`
	Kinds   []string     `json:"kinds"`
	Metrics any          `json:"metrics"`
	Tensors []pageTensor `json:"tensors"`
}

type pageFormat struct {
	Name   string    `json:"name"`
	Points []float64 `json:"points,omitempty"`
}

type pageTensor struct {
	Name   string    `json:"name"`
	Kind   int       `json:"kind"`
	Layer  int       `json:"layer"`
	N      int64     `json:"n"`
	X2     short     `json:"x2"`
	Hist   []int     `json:"hist,omitempty"`
	Values [][]short `json:"f"`
}

// short is a number with five significant digits, null if NaN.
type short float64

func (s short) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(s)) || math.IsInf(float64(s), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(s), 'g', 5, 64), nil
}

// WriteHTML writes the report as one page that needs nothing else: no network, no other file.
func (r *Report) WriteHTML(w io.Writer) error {
	plot, err := r.plot()
	if err != nil {
		return fmt.Errorf("plot rate and distortion: %w", err)
	}
	metrics := r.metrics()
	data := pageData{Formats: []pageFormat{}, Kinds: []string{}, Metrics: metrics, Tensors: make([]pageTensor, len(r.Tensors))}
	for _, f := range r.Formats {
		data.Formats = append(data.Formats, pageFormat{escape.Line(f.Name), f.Points})
	}
	kind := map[string]int{}
	for i := range r.Kinds {
		kind[r.Kinds[i].Name] = i
		data.Kinds = append(data.Kinds, escape.Line(r.Kinds[i].Name))
	}
	for i := range r.Tensors {
		t := &r.Tensors[i]
		p := pageTensor{Name: escape.Line(t.Name), Kind: kind[t.Kind], Layer: -1, N: t.Elements, X2: short(t.SumSquares), Hist: heights(t.Histogram)}
		if t.Layer != nil {
			p.Layer = *t.Layer
		}
		for k := range t.Formats {
			var v []short
			for _, m := range metrics {
				x := math.NaN()
				if p := m.column.of(&t.Formats[k]); p != nil {
					x = *p
				}
				v = append(v, short(x))
			}
			p.Values = append(p.Values, v)
		}
		data.Tensors[i] = p
	}
	raw, err := json.Marshal(data) // escapes <, > and &, so that no name can end the script element
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return page().Execute(w, map[string]any{
		"Title": escape.Line(r.title()), "Subtitle": escape.Line(r.subtitle()), "Tool": r.Tool, "Columns": r.Columns(), "Totals": r.totals(), "Lines": r.lines(), "Verification": r.Verification, "Merge": r.Merge.page(), "Evaluation": r.Evaluation.tables(), "Histograms": r.hasHistograms(),
		"Plot": plot.SVG, "Rings": plot.Rings, "Wide": plot.Wide, "Data": template.JS(raw),
	})
}

func (r *Report) title() string {
	switch {
	case r.Against != "" && r.Source != "":
		return r.Against + " against " + r.Source
	case r.Against != "":
		return r.Against
	case r.Destination != "":
		return r.Source + " -> " + r.Destination
	}
	return r.Source
}

// lines are Lines as the page has them.
func (r *Report) lines() [][2]string {
	out := r.Lines()
	for i := range out {
		out[i][1] = escape.Line(out[i][1])
	}
	return out
}

func (r *Report) subtitle() string {
	if r.Verification != nil {
		return r.Verdict()
	}
	if r.Evaluation != nil {
		return fmt.Sprintf("%s scored tokens, %d checkpoints", comma(int64(r.Evaluation.Scored)), len(r.Evaluation.Checkpoints))
	}
	if r.Merge != nil {
		return strings.Join(r.Merge.Adapters, " + ")
	}
	s := fmt.Sprintf("%s weights in %d tensors", comma(r.Total.Elements), r.Total.Tensors)
	if r.RunDType != "" {
		s += ", rounded to " + r.RunDType
	}
	if r.Total.Measured < r.Total.Elements {
		s += fmt.Sprintf("; a sample of %.1f %% of the weights", 100*float64(r.Total.Measured)/float64(r.Total.Elements))
	}
	if r.Imatrix != "" {
		s += "; activations from " + r.Imatrix
	}
	return s
}

func (r *Report) hasHistograms() bool {
	return slices.ContainsFunc(r.Tensors, func(t Row) bool { return len(t.Histogram) > 0 })
}

type totalRow struct {
	Name  string
	Cells []string
}

func (r *Report) totals() []totalRow {
	var out []totalRow
	cols := r.Columns()
	for i := range r.Formats {
		out = append(out, totalRow{escape.Line(r.Formats[i].Name), Texts(cols, &r.Total.Formats[i])})
	}
	return out
}

// heights scales a histogram to at most 255, nil if it is empty.
func heights(h []int64) []int {
	var most int64
	for _, n := range h {
		most = max(most, n)
	}
	if most == 0 {
		return nil
	}
	out := make([]int, len(h))
	for i, n := range h {
		out[i] = int(math.Round(255 * float64(n) / float64(most)))
	}
	return out
}

// label is a number with two significant digits and no more.
func label(v float64) string { return strconv.FormatFloat(v, 'g', 2, 64) }
