package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"

	"github.com/nf4kit/nf4kit/internal/escape"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

// metrics are the figures that the page's table can show. The first is also that of the heat map.
var metrics = []struct {
	Name    string `json:"name"`
	Digits  int    `json:"digits"`
	Exp     bool   `json:"exp,omitempty"`
	Percent bool   `json:"percent,omitempty"`
	of      func(*Figures) *float64
}{
	{"relative RMSE", 4, false, false, func(f *Figures) *float64 { return f.RelRMSE }},
	{"SQNR dB", 2, false, false, func(f *Figures) *float64 { return f.SQNR }},
	{"mean |e|", 0, true, false, func(f *Figures) *float64 { return &f.MeanAbs }},
	{"median |e|", 0, true, false, func(f *Figures) *float64 { return f.P50 }},
	{"p99 |e|", 0, true, false, func(f *Figures) *float64 { return f.P99 }},
	{"max |e|", 0, true, false, func(f *Figures) *float64 { return &f.MaxAbs }},
	{"cosine", 5, false, false, func(f *Figures) *float64 { return f.Cosine }},
	{"zeros", 0, false, true, func(f *Figures) *float64 { return f.Zeros }},
	{"entropy bits", 3, false, false, func(f *Figures) *float64 { return f.Entropy }},
	{"outlier blocks", 0, false, true, func(f *Figures) *float64 { return f.Outliers }},
	{"activation-weighted RMSE", 4, false, false, func(f *Figures) *float64 { return f.WeightedRR }},
	{"bits/param", 4, false, false, func(f *Figures) *float64 {
		if f.Bits == 0 {
			return nil
		}
		return &f.Bits
	}},
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
				if p := m.of(&t.Formats[k]); p != nil {
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
	return page.Execute(w, map[string]any{
		"Title": escape.Line(r.title()), "Subtitle": escape.Line(r.subtitle()), "Tool": r.Tool, "Totals": r.totals(), "Bits": r.hasBits(), "Weighted": r.Imatrix != "",
		"Plot": plot.SVG, "Rings": plot.Rings, "Wide": plot.Wide, "Data": template.JS(raw),
	})
}

func (r *Report) title() string {
	if r.Against != "" {
		return r.Against + " against " + r.Source
	}
	return r.Source
}

func (r *Report) subtitle() string {
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

func (r *Report) hasBits() bool { return len(r.Total.Formats) > 0 && r.Total.Formats[0].Bits > 0 }

type totalRow struct {
	Name  string
	Cells []string
}

func (r *Report) totals() []totalRow {
	var out []totalRow
	for i := range r.Formats {
		f := &r.Total.Formats[i]
		row := totalRow{Name: r.Formats[i].Name}
		if r.hasBits() {
			row.Cells = append(row.Cells, fmt.Sprintf("%.4f", f.Bits))
		}
		rel := text(f.RelRMSE, "%.4f")
		if f.Interval != nil {
			rel += fmt.Sprintf(" \u00b1 %.4f", *f.Interval)
		}
		row.Cells = append(row.Cells, rel, text(f.SQNR, "%.2f"), fmt.Sprintf("%.2e", f.MeanAbs), text(f.P99, "%.2e"), fmt.Sprintf("%.2e", f.MaxAbs),
			text(f.Cosine, "%.5f"), percent(f.Zeros), text(f.Entropy, "%.3f"), percent(f.Outliers))
		if r.Imatrix != "" {
			row.Cells = append(row.Cells, text(f.WeightedRR, "%.4f"))
		}
		out = append(out, row)
	}
	return out
}

func percent(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100**v)
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
