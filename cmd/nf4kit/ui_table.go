package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// wide is a file on which no line is broken, whatever the terminal that it is: --wide.
type wide struct{ *os.File }

// file is the file that w writes to, nil if it is none.
func file(w io.Writer) *os.File {
	switch f := w.(type) {
	case *os.File:
		return f
	case wide:
		return f.File
	}
	return nil
}

// terminalWidth is the columns that lines and tables have on w: those of the terminal that it is. 0 is any number.
func terminalWidth(w io.Writer) int {
	switch s := w.(type) {
	case *stickyWriter:
		return s.columns
	case wide:
		return 0
	}
	return columnsOf(file(w))
}

// columnsOf is the columns of a terminal, 0 if f is none.
func columnsOf(f *os.File) int {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

// colours reports whether w takes colours: a terminal, unless NO_COLOR is set (no-color.org).
func colours(w io.Writer) bool {
	if s, ok := w.(*stickyWriter); ok {
		return s.colours
	}
	return isTerminal(w) && os.Getenv("NO_COLOR") == ""
}

// A fitTable drops columns, those that matter least first, until it is as narrow as the terminal. Away from a terminal,
// and with --wide, it has them all.
type fitTable struct {
	table.Writer
	columns int  // of the terminal; 0: any number
	colour  bool // verdicts are coloured
	head    [][]any
	rows    [][]any // nil is a separator
	right   [2]int  // columns that stand right, from and to, counted from 1
	least   []int   // columns to drop, in this order; then from the last to the second
	prose   bool    // the last column is text that can be cut, and is not dropped
}

// newTable is a table in the one style of every report.
func newTable(w io.Writer) *fitTable {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleLight
	style.Options.DrawBorder = false
	style.Options.SeparateColumns = false
	style.Format.Header = text.FormatDefault
	style.Format.Footer = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	return &fitTable{Writer: t, columns: terminalWidth(w), colour: colours(w)}
}

// alignRight aligns columns from to to, counted from 1, to the right.
func alignRight(t *fitTable, from, to int) { t.right = [2]int{from, to} }

// drops says which columns, counted from 1, go first where there is no room.
func (t *fitTable) drops(columns ...int) { t.least = columns }

// AppendHeader adds a row of the header.
func (t *fitTable) AppendHeader(r table.Row, _ ...table.RowConfig) { t.head = append(t.head, r) }

// AppendRow adds a row.
func (t *fitTable) AppendRow(r table.Row, _ ...table.RowConfig) { t.rows = append(t.rows, r) }

// AppendSeparator adds a line between the rows before it and those after it.
func (t *fitTable) AppendSeparator() { t.rows = append(t.rows, nil) }

// Render writes the table.
func (t *fitTable) Render() string {
	kept := t.fit()
	pick := func(cells []any) table.Row {
		var out table.Row
		for _, c := range kept {
			if c < len(cells) {
				out = append(out, cells[c])
			}
		}
		return out
	}
	var configs []table.ColumnConfig
	for i, c := range kept {
		if c+1 >= t.right[0] && c+1 <= t.right[1] {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	for _, h := range t.head {
		t.Writer.AppendHeader(pick(h))
	}
	for _, r := range t.rows {
		if r == nil {
			t.Writer.AppendSeparator()
			continue
		}
		t.Writer.AppendRow(t.paint(pick(r)))
	}
	return t.Writer.Render()
}

// verdictColours are the words that decide something, wherever they are a cell.
var verdictColours = map[string]text.Color{
	"fits": text.FgGreen, "tight": text.FgYellow, "pages": text.FgYellow, "no": text.FgRed,
}

func (t *fitTable) paint(cells table.Row) table.Row {
	for i, c := range cells {
		if !t.colour {
			break
		}
		word := cellText(c)
		if colour, ok := verdictColours[word]; ok {
			cells[i] = colour.EscapeSeq() + word + text.Reset.EscapeSeq()
		}
	}
	return cells
}

func cellText(c any) string { return fmt.Sprint(c) }

// fit is the columns that there is room for, counted from 0. What is too wide even as two columns has its first cut.
func (t *fitTable) fit() []int {
	n := 0
	all := slices.Concat(t.head, t.rows)
	for _, r := range all {
		n = max(n, len(r))
	}
	widths := make([]int, n)
	for _, r := range all {
		for i, c := range r {
			widths[i] = max(widths[i], text.StringWidthWithoutEscSequences(cellText(c)))
		}
	}
	kept := make([]int, n)
	total := 0
	for i := range kept {
		kept[i] = i
		total += widths[i] + 2
	}
	if t.columns == 0 {
		return kept
	}
	drop := func(i int) {
		if at := slices.Index(kept, i); at > 0 && total > t.columns {
			kept = slices.Delete(kept, at, at+1)
			total -= widths[i] + 2
		}
	}
	for _, c := range t.least {
		drop(c - 1)
	}
	for i := n - 1; i > 1 && !t.prose; i-- {
		drop(i)
	}
	if n > 0 && total > t.columns {
		last := n - 1
		if !t.prose {
			last = 0
		}
		t.cut(last, max(widths[last]-(total-t.columns), 8))
	}
	return kept
}

// cut shortens a column: names keep their end, which tells them apart, prose its beginning.
func (t *fitTable) cut(column, most int) {
	for _, r := range slices.Concat(t.head, t.rows) {
		if column >= len(r) {
			continue
		}
		switch s := cellText(r[column]); {
		case text.StringWidthWithoutEscSequences(s) <= most:
		case column == 0:
			r[column] = shorten(s, most)
		default:
			r[column] = text.Trim(s, most-3) + "..."
		}
	}
}

// wrapLine breaks a line at spaces so that no part is wider than columns. What follows stands under the text beside a
// label, such as a flag's, else it is indented as the line is and by two more. A word that is wider stays whole: a path or a name is copied more often than it is read.
func wrapLine(line string, columns int) string {
	if columns < 20 || text.StringWidthWithoutEscSequences(line) <= columns || strings.ContainsRune(line, '\x1b') {
		return line
	}
	body := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(body)]
	hang := indent + "  "
	if label := strings.Index(body, "  "); label > 0 {
		rest := strings.TrimLeft(body[label:], " ")
		if at := len(line) - len(rest); at <= columns/2 {
			hang = strings.Repeat(" ", at)
		}
	}
	var b strings.Builder
	b.WriteString(indent)
	col, first := len(indent), true
	for word := range strings.SplitSeq(body, " ") {
		n := text.StringWidthWithoutEscSequences(word)
		switch {
		case first:
		case col+1+n > columns:
			b.WriteString("\n" + hang)
			col = len(hang)
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
		first = false
	}
	return b.String()
}
