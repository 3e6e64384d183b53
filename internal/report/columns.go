package report

import (
	"fmt"
	"math"
)

// A Column is one figure of a row in one format. JSON, CSV, the tables and the page have it under the same name, and this
// is the place to add another; its member of [Figures] carries the value and the JSON key.
type Column struct {
	Key   string // in JSON and in CSV
	Label string // in tables; "" for what JSON and CSV alone have

	style style
	page  bool // on the page alone: its table of tensors has room for one figure, and this may be that
	of    func(*Figures) *float64
}

// A style is how a number is written.
type style struct {
	digits  int
	exp     bool // with an exponent
	percent bool
}

// columns are all figures, in the order of the tables.
var columns = []Column{
	{Key: "bits_per_parameter", Label: "bits/param", style: style{digits: 4}, of: func(f *Figures) *float64 { return &f.Bits }},
	{Key: "bits_per_parameter_codes_and_constants", of: func(f *Figures) *float64 { return &f.CodeBits }},
	{Key: keyRelRMSE, Label: "rel RMSE", style: style{digits: 4}, of: func(f *Figures) *float64 { return f.RelRMSE }},
	{Key: "relative_rmse_ci95", of: func(f *Figures) *float64 { return f.Interval }},
	{Key: keySQNR, Label: "SQNR dB", style: style{digits: 2}, of: func(f *Figures) *float64 { return f.SQNR }},
	{Key: "rmse", of: func(f *Figures) *float64 { return &f.RMSE }},
	{Key: "mean_abs_error", Label: "mean |e|", style: style{digits: 2, exp: true}, of: func(f *Figures) *float64 { return &f.MeanAbs }},
	{Key: "error_p50", Label: "median |e|", page: true, style: style{digits: 2, exp: true}, of: func(f *Figures) *float64 { return f.P50 }},
	{Key: "error_p90", of: func(f *Figures) *float64 { return f.P90 }},
	{Key: "error_p99", Label: "p99 |e|", style: style{digits: 2, exp: true}, of: func(f *Figures) *float64 { return f.P99 }},
	{Key: "error_p999", of: func(f *Figures) *float64 { return f.P999 }},
	{Key: "max_abs_error", Label: "max |e|", style: style{digits: 2, exp: true}, of: func(f *Figures) *float64 { return &f.MaxAbs }},
	{Key: "cosine", Label: "cosine", style: style{digits: 5}, of: func(f *Figures) *float64 { return f.Cosine }},
	{Key: "zero_share", Label: "zeros", style: style{percent: true}, of: func(f *Figures) *float64 { return f.Zeros }},
	{Key: "code_entropy_bits", Label: "entropy", style: style{digits: 3}, of: func(f *Figures) *float64 { return f.Entropy }},
	{Key: "outlier_block_share", Label: "outliers", style: style{percent: true}, of: func(f *Figures) *float64 { return f.Outliers }},
	{Key: "activation_weighted_relative_rmse", Label: "act. RMSE", style: style{digits: 4}, of: func(f *Figures) *float64 { return f.WeightedRR }},
}

const (
	keyRelRMSE = "relative_rmse"
	keySQNR    = "sqnr_db"
)

// Columns are those of the report's tables: no column is empty in every total.
func (r *Report) Columns() []Column {
	var out []Column
	for _, c := range columns {
		if c.Label != "" && !c.page && r.has(c) {
			out = append(out, c)
		}
	}
	return out
}

// has reports whether some format has the figure in total. An SQNR that does not exist, since nothing is lost, is one.
func (r *Report) has(c Column) bool {
	if c.Key == keySQNR || c.Key == keyRelRMSE || c.Key == "cosine" {
		return true
	}
	for i := range r.Total.Formats {
		if c.of(&r.Total.Formats[i]) != nil {
			return true
		}
	}
	return false
}

// Text is the figure as tables have it, "-" for what does not exist. The relative RMSE of a sample has its interval.
func (c *Column) Text(f *Figures) string {
	v := c.of(f)
	switch {
	case v == nil && c.Key == keySQNR && f.RelRMSE != nil:
		return "exact" // the ratio of something to nothing
	case v == nil:
		return "-"
	}
	s := c.style.text(*v)
	if c.Key == keyRelRMSE && f.Interval != nil {
		s += " +- " + c.style.text(*f.Interval)
	}
	return s
}

func (s style) text(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case s.percent:
		return fmt.Sprintf("%.2f %%", 100*v)
	case s.exp:
		return fmt.Sprintf("%.*e", s.digits, v)
	}
	return fmt.Sprintf("%.*f", s.digits, v)
}

// Texts are the figures of the columns.
func Texts(columns []Column, f *Figures) []string {
	out := make([]string, len(columns))
	for i := range columns {
		out[i] = columns[i].Text(f)
	}
	return out
}
