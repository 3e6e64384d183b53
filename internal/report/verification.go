package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// A Verification is what was found out about a written checkpoint beside its sizes.
type Verification struct {
	OK          bool       `json:"ok"`
	Targets     []string   `json:"targets"` // loaders it was checked for
	Serves      []string   `json:"serves"`  // those of them that nothing speaks against
	Findings    []Finding  `json:"findings"`
	Formula     float64    `json:"bits_per_parameter_formula"`
	Plain16     int64      `json:"bytes_in_16_bits"` // the same tensors with the quantized ones in 16 bits
	HeadersOnly bool       `json:"headers_only,omitempty"`
	Manifest    bool       `json:"manifest"`
	ManifestBy  string     `json:"manifest_tool,omitempty"`
	Recorded    int        `json:"digests_recorded,omitempty"`
	Digests     int        `json:"digests_compared"`
	Proof       *Proof     `json:"source,omitempty"`
	Tolerated   *Tolerated `json:"tolerated,omitempty"`
}

// A Finding is one thing wrong with a checkpoint.
type Finding struct {
	Kind     string   `json:"-"` // what findings of the same kind are folded by
	Severity string   `json:"severity"`
	File     string   `json:"file,omitempty"`
	Tensor   string   `json:"tensor,omitempty"`
	Text     string   `json:"text"`
	Breaks   []string `json:"breaks,omitempty"` // loaders
}

// A Proof counts what was derived from the source again.
type Proof struct {
	Exact          bool  `json:"exact"` // every byte has to be equal
	Weights        int64 `json:"weights"`
	Plain          int64 `json:"plain_tensors"`
	Codes          int64 `json:"codes"`
	Constants      int64 `json:"constants"`
	WrongCodes     int64 `json:"wrong_codes"`
	WrongConstants int64 `json:"wrong_constants"`
	WrongPlain     int64 `json:"wrong_plain_tensors"`
	Unproven       int   `json:"tensors_without_counterpart"`
}

// Tolerated counts the differences between implementations that are no failure.
type Tolerated struct {
	NearCodes   int64   `json:"codes_near_threshold"`
	ZeroCodes   int64   `json:"fp4_zeros"`
	NestedCodes int64   `json:"nested_codes"`
	Offsets     int64   `json:"offsets"`
	MaxOffset   float64 `json:"max_offset_difference"`
	Padding     int64   `json:"paddings"`
}

// String is the finding as one line.
func (f *Finding) String() string {
	line := f.Severity + ": "
	for _, part := range []string{f.File, f.Tensor} {
		if part != "" {
			line += part + ": "
		}
	}
	line += f.Text
	if len(f.Breaks) > 0 {
		line += "; breaks " + strings.Join(f.Breaks, ", ")
	}
	return line
}

// Verdict is the outcome in a word, and what was looked at.
func (r *Report) Verdict() string {
	word := "ok"
	if !r.Verification.OK {
		word = "FAILED"
	}
	return fmt.Sprintf("%s: %d quantized weights, %d plain tensors", word, r.Sizes.QuantTensors, r.Sizes.KeptTensors)
}

// Lines say in words what the report knows beside the figures of error: sizes, and what was verified. Each is a label and
// a text.
func (r *Report) Lines() [][2]string {
	s, v := r.Sizes, r.Verification
	switch {
	case r.Evaluation != nil:
		return r.Evaluation.lines()
	case r.Merge != nil && s == nil:
		return r.Merge.lines()
	case s == nil:
		return nil
	case v != nil:
		return append(v.sizes(s), v.lines()...)
	}
	out := [][2]string{
		{"parameters", fmt.Sprintf("%s, of them %s (%.1f %%) quantized in %d tensors; %d tensors kept",
			comma(s.Parameters), comma(s.QuantParameters), 100*ratio(float64(s.QuantParameters), s.Parameters), s.QuantTensors, s.KeptTensors)},
		{"bits/param", fmt.Sprintf("%.3f in the quantized part (%.3f codes and constants, the rest tables), %.3f in all", s.QuantBits, s.QuantCodeBits, s.BitsPerParameter)},
		{"size", fmt.Sprintf("%s, was %s: %.1f %% saved", byteText(s.OutputBytes), byteText(s.SourceBytes), s.Saved())},
	}
	if r.Merge != nil {
		out = append(out, r.Merge.lines()...)
	}
	if st := r.Storage; st != nil {
		text := fmt.Sprintf("%s codes changed so that no word is a NaN in %s", comma(st.Changed), st.DType)
		if st.Added != nil {
			text += fmt.Sprintf(", which adds %.3f %% to the relative RMSE", 100**st.Added)
		}
		out = append(out, [2]string{"storage", text + "; --exact-storage changes none"})
	}
	return out
}

func (v *Verification) sizes(s *Sizes) [][2]string {
	if s.QuantParameters == 0 {
		return nil
	}
	return [][2]string{
		{"bits/param", fmt.Sprintf("%.4f measured, %.4f by the formula, for codes and constants; %.4f with tables and records", s.QuantCodeBits, v.Formula, s.QuantBits)},
		{"size", fmt.Sprintf("%s; %s in 16 bits: %.1f %% saved", byteText(s.OutputBytes), byteText(v.Plain16), 100-100*ratio(float64(s.OutputBytes), v.Plain16))},
	}
}

func (v *Verification) lines() (out [][2]string) {
	line := func(label, format string, args ...any) {
		out = append(out, [2]string{label, fmt.Sprintf(format, args...)})
	}
	switch {
	case v.HeadersOnly:
	case !v.Manifest:
		line("digests", "none: there is no nf4kit.json")
	default:
		line("digests", "%d of %d tensors compared with those that %s recorded", v.Digests, v.Recorded, v.ManifestBy)
	}
	if p := v.Proof; p != nil {
		line("source", "%s codes and %s constants of %d weights derived again, %d plain tensors compared",
			comma(p.Codes), comma(p.Constants), p.Weights, p.Plain)
		line("", "%s codes, %s constants and %d plain tensors differ; %d tensors without a counterpart",
			comma(p.WrongCodes), comma(p.WrongConstants), p.WrongPlain, p.Unproven)
		if t := v.Tolerated; !p.Exact && t != nil {
			line("tolerated", "%d differences: %d codes near a threshold, %d zeros of FP4, %d nested codes, %d offsets (at most %.1e off), %d paddings",
				t.NearCodes+t.ZeroCodes+t.NestedCodes+t.Offsets+t.Padding, t.NearCodes, t.ZeroCodes, t.NestedCodes, t.Offsets, t.MaxOffset, t.Padding)
		}
	}
	return out
}

func byteText(n int64) string {
	if n < 0 {
		return "-" + byteText(-n)
	}
	return humanize.Bytes(uint64(n))
}

// findingsCSV writes one line for each finding.
func (r *Report) findingsCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"severity", "file", "tensor", "text", "breaks"}) // the error is kept until Error
	for _, f := range r.Verification.Findings {
		_ = c.Write([]string{f.Severity, escape.Cell(f.File), escape.Cell(f.Tensor), escape.Cell(f.Text), strings.Join(f.Breaks, ", ")})
	}
	c.Flush()
	return c.Error()
}

// verified writes the lines and the findings as Markdown.
func (r *Report) verified(b *strings.Builder) {
	fmt.Fprintf(b, "%s: %s\n\n", escape.Markdown(r.Against), escape.Markdown(r.Verdict()))
	label := ""
	for _, l := range r.Lines() {
		if l[0] != "" {
			label = l[0]
		}
		fmt.Fprintf(b, "- %s: %s\n", label, escape.Markdown(l[1]))
	}
	if len(r.Verification.Findings) == 0 {
		return
	}
	b.WriteString("\n| severity | file | tensor | finding | breaks |\n|---|---|---|---|---|\n")
	for _, f := range r.Verification.Findings {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", f.Severity, escape.Markdown(f.File), escape.Markdown(f.Tensor), escape.Markdown(f.Text), strings.Join(f.Breaks, ", "))
	}
}
