package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// A Merge is what became of the updates of adapters that were merged.
type Merge struct {
	Adapters  []string `json:"adapters"`
	Changed   int      `json:"changed_tensors"`
	Onto      string   `json:"onto,omitempty"`      // where there were two bases: that which the updates went onto
	Otherwise string   `json:"otherwise,omitempty"` // the scales, such as "mse-signed", of Update.Otherwise
	Notes     []string `json:"notes"`
	Total     *Update  `json:"total,omitempty"` // with Tensors, unless nothing was measured
	Kinds     []Update `json:"-"`               // of tables, unless every tensor is wanted: modules of one name together
	Tensors   []Update `json:"tensors"`
}

// An Update is what became of that of one tensor. D is what the adapters add to its base W, and W' what was written.
type Update struct {
	Tensor   string   `json:"tensor"`
	Rank     int64    `json:"rank,omitempty"`
	Relative float64  `json:"relative_norm"` // |D|/|W|
	Max      float64  `json:"max"`           // of |D|'s elements
	Survives float64  `json:"survives"`      // <D, W'-W>/|D|^2
	Lost     float64  `json:"lost"`          // |W'-W-D|/|D|
	Gap      *float64 `json:"base_error,omitempty"`
	// Otherwise is what survives where a weight is quantized with the other scales, from a sample.
	Otherwise *float64 `json:"survives_otherwise,omitempty"`
}

// An updateColumn is one figure of an update.
type updateColumn struct {
	key, label string
	text       func(*Update) string
	of         func(*Update) *float64
}

func figure(v *float64) string {
	if v == nil || *v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", *v)
}

func share(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100**v)
}

// columns are the figures that there are.
func (m *Merge) columns() []updateColumn {
	number := func(key, label string, of func(*Update) *float64, text func(*float64) string) updateColumn {
		return updateColumn{key, label, func(u *Update) string { return text(of(u)) }, of}
	}
	out := []updateColumn{
		number("relative_norm", "|D|/|W|", func(u *Update) *float64 { return &u.Relative }, figure),
		number("max", "max |D|", func(u *Update) *float64 { return &u.Max }, figure),
		number("survives", "survives", func(u *Update) *float64 { return &u.Survives }, share),
	}
	if m.Otherwise != "" {
		out = append(out, number("survives_otherwise", "by "+m.Otherwise, func(u *Update) *float64 { return u.Otherwise }, share))
	}
	out = append(out, number("lost", "lost/|D|", func(u *Update) *float64 { return &u.Lost }, figure))
	if m.Total != nil && m.Total.Gap != nil {
		out = append(out, number("base_error", "|W-Q|/|D|", func(u *Update) *float64 { return u.Gap }, figure))
	}
	return out
}

// Table is the head and the rows of a table of updates, the last the total; nil where nothing was measured.
func (m *Merge) Table(updates []Update) (head []string, rows [][]string) {
	if m.Total == nil {
		return nil, nil
	}
	cols := m.columns()
	head = []string{"weight", "rank"}
	for _, c := range cols {
		head = append(head, c.label)
	}
	for i := range len(updates) + 1 {
		u := m.Total
		if i < len(updates) {
			u = &updates[i]
		}
		rank := ""
		if u.Rank > 0 {
			rank = strconv.FormatInt(u.Rank, 10)
		}
		cells := []string{u.Tensor, rank}
		for _, c := range cols {
			cells = append(cells, c.text(u))
		}
		rows = append(rows, cells)
	}
	return head, rows
}

// Lines say in words what was merged.
func (m *Merge) lines() (out [][2]string) {
	out = append(out, [2]string{"adapters", strings.Join(m.Adapters, ", ")}, [2]string{"changed", fmt.Sprintf("%d tensors", m.Changed)})
	if m.Onto != "" {
		out = append(out, [2]string{"onto", m.Onto})
	}
	if m.Total != nil {
		text := fmt.Sprintf("%.1f %% of the update", 100*m.Total.Survives)
		if m.Total.Otherwise != nil {
			text += fmt.Sprintf("; with scales by %s, of a sample, %.1f %%", m.Otherwise, 100**m.Total.Otherwise)
		}
		out = append(out, [2]string{"survives", text})
	}
	for _, n := range m.Notes {
		out = append(out, [2]string{"note", n})
	}
	return out
}

// csv writes one line for each tensor with an update.
func (m *Merge) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	cols := m.columns()
	head := []string{"tensor", "rank"}
	for _, x := range cols {
		head = append(head, x.key)
	}
	_ = c.Write(head) // the error is kept until Error
	for i := range m.Tensors {
		u := &m.Tensors[i]
		row := []string{escape.Cell(u.Tensor), strconv.FormatInt(u.Rank, 10)}
		for _, x := range cols {
			row = append(row, csvNumber(x.of(u)))
		}
		_ = c.Write(row)
	}
	c.Flush()
	return c.Error()
}

// markdown writes the lines, and a table of the kinds of modules.
func (m *Merge) markdown(b *strings.Builder) {
	for _, l := range m.lines() {
		fmt.Fprintf(b, "- %s: %s\n", l[0], escape.Markdown(l[1]))
	}
	if head, rows := m.Table(m.Kinds); head != nil {
		b.WriteString("\n")
		markdownTable(b, head, rows)
	}
}

// mergePage is the table of the page.
type mergePage struct {
	Head []string
	Rows [][]string
}

func (m *Merge) page() *mergePage {
	if m == nil || m.Total == nil {
		return nil
	}
	p := &mergePage{}
	p.Head, p.Rows = m.Table(m.Tensors)
	for _, row := range p.Rows {
		row[0] = escape.Line(row[0])
	}
	return p
}
