package report

import (
	"cmp"
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

// WriteCSV writes one line for each tensor and format. A figure that does not exist is empty; a name that a spreadsheet would
// take for a formula begins with an apostrophe. Of a verification it writes the findings, of a merge the updates, of an evaluation
// the checkpoints.
func (r *Report) WriteCSV(w io.Writer) error {
	if r.Verification != nil {
		return r.findingsCSV(w)
	}
	if r.Merge != nil {
		return r.Merge.csv(w)
	}
	if r.Evaluation != nil {
		return r.Evaluation.csv(w)
	}
	c := csv.NewWriter(w)
	head := []string{"tensor", "kind", "layer", "elements", "elements_measured", "format"}
	for _, c := range columns {
		head = append(head, c.Key)
	}
	_ = c.Write(head) // the error is kept until Error
	for i := range r.Tensors {
		t := &r.Tensors[i]
		layer := ""
		if t.Layer != nil {
			layer = strconv.Itoa(*t.Layer)
		}
		for k := range t.Formats {
			row := []string{escape.Cell(t.Name), escape.Cell(t.Kind), layer, fmt.Sprint(t.Elements), fmt.Sprint(t.Measured), cmp.Or(t.Formats[k].Format, r.Formats[k].Name)}
			for _, c := range columns {
				row = append(row, csvNumber(c.of(&t.Formats[k])))
			}
			_ = c.Write(row)
		}
	}
	c.Flush()
	return c.Error()
}

// csvNumber is a figure to its last digit; one that is not known is an empty cell.
func csvNumber(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}

// WriteMarkdown writes the tables for a model card: the formats over all tensors, and the kinds in the first format.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	r.markdown(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) markdown(b *strings.Builder) {
	if r.Verification != nil {
		r.verified(b)
		return
	}
	if r.Evaluation != nil {
		r.Evaluation.markdown(b)
		return
	}
	if r.Merge != nil {
		r.Merge.markdown(b)
		if len(r.Formats) == 0 {
			return
		}
		b.WriteString("\n")
	}
	if len(r.Formats) == 0 {
		b.WriteString("Nothing was measured.\n")
		return
	}
	cols := r.Columns()
	line := func(name string, t int, n int64, f *Figures) {
		fmt.Fprintf(b, "| %s | %d | %s | %s |\n", name, t, comma(n), strings.Join(Texts(cols, f), " | "))
	}
	head := func(first string) {
		fmt.Fprintf(b, "| %s | tensors | weights |", first)
		for i := range cols {
			fmt.Fprintf(b, " %s |", escape.Markdown(cols[i].Label))
		}
		b.WriteString("\n|---|--:|--:|" + strings.Repeat("--:|", len(cols)) + "\n")
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
