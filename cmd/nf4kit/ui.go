package main

// Printing rules: data goes to stdout, everything else to stderr. An error is
// one line "nf4kit: error: ...", printed in one place (run); warnings and notices
// are lines too. On a terminal what is wrong has a colour, unless NO_COLOR is set,
// and nothing is wider than it is unless --wide is given. -q drops notices and progress, never warnings or
// errors. Names come from files that strangers made: text goes out through package
// escape (in tables by row), so that none acts on a terminal or forges a line of ours.

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/nf4kit/nf4kit/internal/escape"
)

func errorf(w io.Writer, format string, args ...any) {
	message(w, "error: ", text.FgRed, format, args...)
}

func warnf(w io.Writer, format string, args ...any) {
	message(w, "warning: ", text.FgYellow, format, args...)
}

func noticef(w io.Writer, format string, args ...any) {
	message(w, "", text.Reset, format, args...)
}

// message prints what a label begins, in colour where there is one, and breaks it between words where a terminal is too narrow.
func message(w io.Writer, word string, c text.Color, format string, args ...any) {
	var b strings.Builder
	escape.Fprintf(&b, "nf4kit: "+word+format, args...)
	lines := strings.Split(b.String(), "\n")
	if columns := terminalWidth(w); columns > 0 {
		for i := range lines {
			lines[i] = wrapLine(lines[i], columns)
		}
	}
	if word != "" && colours(w) {
		lines[0] = strings.Replace(lines[0], word, c.EscapeSeq()+word+text.Reset.EscapeSeq(), 1)
	}
	_, _ = io.WriteString(w, strings.Join(lines, "\n")+"\n") // escaped above
}

// isTerminal reports whether w is a terminal that understands control codes.
func isTerminal(w io.Writer) bool {
	f := file(w)
	return f != nil && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// bytesText writes a size in SI units, e.g. "1.1 GB".
func bytesText(n int64) string {
	if n < 0 {
		return "-" + bytesText(-n)
	}
	return humanize.Bytes(uint64(n))
}

func countText(n int64) string { return humanize.Comma(n) }

// parseSize reads 5GB, 512MiB or a plain number of bytes.
func parseSize(flag, s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, usagef("--%s %q: want a size such as 512MiB or 5GB", flag, s)
	}
	return int64(n), nil
}

// progress shows bytes, rate, time left and the current tensor: a bar on a
// terminal, a line now and then elsewhere.
type progress struct {
	bar   *progressbar.ProgressBar
	w     io.Writer
	verb  string
	steps bool // of a total in no unit: no bytes are shown
	total int64
	done  int64
	start time.Time
	last  time.Time
}

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = 5 * time.Second
)

// newProgress returns nil, on which every method does nothing, when quiet.
func newProgress(w io.Writer, verb string, total int64, quiet bool) *progress {
	return startProgress(&progress{w: w, verb: verb, total: total}, quiet)
}

// newSteps is newProgress for work that has no bytes.
func newSteps(w io.Writer, verb string, total int64, quiet bool) *progress {
	return startProgress(&progress{w: w, verb: verb, total: total, steps: true}, quiet)
}

func startProgress(p *progress, quiet bool) *progress {
	if quiet {
		return nil
	}
	w := p.w
	p.start = time.Now()
	p.last = p.start
	if isTerminal(w) {
		p.bar = progressbar.NewOptions64(p.total,
			progressbar.OptionSetWriter(file(w)), progressbar.OptionShowBytes(!p.steps), progressbar.OptionSetWidth(24),
			progressbar.OptionThrottle(barInterval), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth(),
			progressbar.OptionSetDescription(p.verb))
	}
	return p
}

// advance is not safe for concurrent use.
func (p *progress) advance(tensor string, n int64) {
	if p == nil {
		return
	}
	p.done += n
	now := time.Now()
	if p.bar != nil {
		if now.Sub(p.last) >= barInterval {
			p.last = now
			p.bar.Describe(p.describe(tensor))
		}
		_ = p.bar.Add64(n)
		return
	}
	if now.Sub(p.last) >= lineInterval {
		p.last = now
		rate := float64(p.done) / now.Sub(p.start).Seconds()
		left := time.Duration(float64(p.total-p.done) / rate * float64(time.Second)).Round(time.Second)
		if p.steps {
			noticef(p.w, "%s, %d %%, %s left, at %s", p.verb, 100*p.done/max(p.total, 1), left, tensor)
			return
		}
		noticef(p.w, "%s %s of %s (%d %%), %s/s, %s left, at %s", p.verb, bytesText(p.done), bytesText(p.total),
			100*p.done/max(p.total, 1), bytesText(int64(rate)), left, tensor)
	}
}

// barRoom is what the bar, its figures and the verb take of a line, beside the name of a tensor.
const barRoom = 72

// describe is the bar's text: the tensor as far as there is room on the line. A line that is too long would be
// written again below itself with every change.
func (p *progress) describe(tensor string) string {
	room := min(columnsOf(file(p.w))-barRoom, 40)
	if room < 8 {
		return p.verb
	}
	return p.verb + " " + shorten(escape.Line(tensor), room)
}

func (p *progress) finish() {
	if p != nil && p.bar != nil {
		_ = p.bar.Finish()
	}
}

// shorten keeps the end of a tensor's name, which is what tells it apart.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	from := len(s) - n + 3
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return "..." + s[from:]
}

// cellWidth is where a cell is cut: every row of a table is as wide as its widest.
const cellWidth = 160

// row is the cells of a row as a table shows them.
func row(cells ...any) []any {
	for i, c := range cells {
		switch s := c.(type) {
		case string:
			cells[i] = escape.Line(escape.Middle(s, cellWidth))
		case fmt.Stringer:
			cells[i] = escape.Line(escape.Middle(s.String(), cellWidth))
		}
	}
	return cells
}

// foldAt is how many lines of one kind are printed before the rest is counted:
// a wrong file is wrong in hundreds of tensors.
const foldAt = 5

// fold shows the members of list, those of one kind together where the first of
// them stands, and unless all are wanted at most foldAt of a kind; rest is given
// the last one shown and how many were not.
func fold[T any, K comparable](list []T, kind func(T) K, all bool, show func(T), rest func(last T, n int)) {
	groups := make(map[K][]T)
	for _, x := range list {
		groups[kind(x)] = append(groups[kind(x)], x)
	}
	for _, x := range list {
		g := groups[kind(x)]
		delete(groups, kind(x))
		for i, x := range g {
			if i == foldAt && len(g) > foldAt+1 && !all {
				rest(g[i-1], len(g)-foldAt)
				break
			}
			show(x)
		}
	}
}

// wrapNames lists names on lines of limited width, the rest counted.
func wrapNames(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
