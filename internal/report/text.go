package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// WriteJSON writes the report, indented.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// csvFigures are the columns of a format, in order.
var csvFigures = []struct {
	name string
	of   func(*Figures) *float64
}{
	{"bits_per_parameter", func(f *Figures) *float64 { return &f.Bits }},
	{"bits_per_parameter_codes_and_constants", func(f *Figures) *float64 { return &f.CodeBits }},
	{"relative_rmse", func(f *Figures) *float64 { return f.RelRMSE }},
	{"relative_rmse_ci95", func(f *Figures) *float64 { return f.Interval }},
	{"sqnr_db", func(f *Figures) *float64 { return f.SQNR }},
	{"rmse", func(f *Figures) *float64 { return &f.RMSE }},
	{"mean_abs_error", func(f *Figures) *float64 { return &f.MeanAbs }},
	{"max_abs_error", func(f *Figures) *float64 { return &f.MaxAbs }},
	{"cosine", func(f *Figures) *float64 { return f.Cosine }},
	{"error_p50", func(f *Figures) *float64 { return f.P50 }},
	{"error_p90", func(f *Figures) *float64 { return f.P90 }},
	{"error_p99", func(f *Figures) *float64 { return f.P99 }},
	{"error_p999", func(f *Figures) *float64 { return f.P999 }},
	{"zero_share", func(f *Figures) *float64 { return f.Zeros }},
	{"code_entropy_bits", func(f *Figures) *float64 { return f.Entropy }},
	{"outlier_block_share", func(f *Figures) *float64 { return f.Outliers }},
	{"activation_weighted_relative_rmse", func(f *Figures) *float64 { return f.WeightedRR }},
}

// WriteCSV writes one line for each tensor and format. A figure that does not exist is empty; a name that a spreadsheet would
// take for a formula begins with an apostrophe.
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	head := []string{"tensor", "kind", "layer", "elements", "elements_measured", "format"}
	for _, f := range csvFigures {
		head = append(head, f.name)
	}
	_ = c.Write(head) // the error is kept until Error
	for i := range r.Tensors {
		t := &r.Tensors[i]
		layer := ""
		if t.Layer != nil {
			layer = strconv.Itoa(*t.Layer)
		}
		for k := range t.Formats {
			row := []string{escape.Cell(t.Name), escape.Cell(t.Kind), layer, fmt.Sprint(t.Elements), fmt.Sprint(t.Measured), r.Formats[k].Name}
			for _, f := range csvFigures {
				v := f.of(&t.Formats[k])
				if v == nil {
					row = append(row, "")
					continue
				}
				row = append(row, strconv.FormatFloat(*v, 'g', -1, 64))
			}
			_ = c.Write(row)
		}
	}
	c.Flush()
	return c.Error()
}

// WriteMarkdown writes the tables for a model card: the formats over all tensors, and the kinds in the first format.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	r.markdown(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) markdown(b *strings.Builder) {
	bits := r.Total.Formats != nil && r.Total.Formats[0].Bits > 0
	line := func(name string, t int, n int64, f *Figures) {
		fmt.Fprintf(b, "| %s | %d | %s |", name, t, comma(n))
		if bits {
			fmt.Fprintf(b, " %.3f |", f.Bits)
		}
		fmt.Fprintf(b, " %s | %s | %.2e | %.2e | %s |\n", text(f.RelRMSE, "%.4f"), text(f.SQNR, "%.2f"), f.MeanAbs, f.MaxAbs, text(f.Cosine, "%.5f"))
	}
	head := func(first string) {
		fmt.Fprintf(b, "| %s | tensors | weights |", first)
		rule := "|---|--:|--:|"
		if bits {
			b.WriteString(" bits/param |")
			rule += "--:|"
		}
		b.WriteString(" relative RMSE | SQNR dB | mean abs error | max abs error | cosine |\n" + rule + "--:|--:|--:|--:|--:|\n")
	}
	if len(r.Formats) == 0 {
		b.WriteString("Nothing was measured.\n")
		return
	}
	head("format")
	for i := range r.Formats {
		line(escape.Markdown(r.Formats[i].Name), r.Total.Tensors, r.Total.Elements, &r.Total.Formats[i])
	}
	fmt.Fprintf(b, "\nBy kind of module, in %s:\n\n", escape.Markdown(r.Formats[0].Name))
	head("kind")
	for i := range r.Kinds {
		k := &r.Kinds[i]
		line(escape.Markdown(k.Name), k.Tensors, k.Elements, &k.Formats[0])
	}
	line("**total**", r.Total.Tensors, r.Total.Elements, &r.Total.Formats[0])
}

func text(v *float64, format string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// comma writes a number with thousands separated.
func comma(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Sparkline draws values as blocks of eight heights between their least and largest; nothing for those that are NaN.
func Sparkline(values []float64) string {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	out := make([]rune, 0, len(values))
	for _, v := range values {
		switch {
		case math.IsNaN(v):
			out = append(out, ' ')
		case hi == lo:
			out = append(out, 0x2584)
		default:
			out = append(out, 0x2581+rune(min(7, int(8*(v-lo)/(hi-lo)))))
		}
	}
	return string(out)
}

// LayerErrors are the relative RMSE of the layers in format i, NaN for a layer without one.
func (r *Report) LayerErrors(i int) []float64 {
	var out []float64
	for k := range r.Layers {
		v := math.NaN()
		if e := r.Layers[k].Formats[i].RelRMSE; e != nil {
			v = *e
		}
		for len(out) < *r.Layers[k].Layer && len(out) < maxSparkline {
			out = append(out, math.NaN())
		}
		out = append(out, v)
	}
	return out
}

// maxSparkline bounds the gaps that a layer number taken from a tensor's name can make.
const maxSparkline = 1000
