// Package escape writes text that a file of unknown origin chose (names of tensors, modules, files and models) into media
// in which some characters do something. Each medium has its own rule, and only here:
//
//	terminal   [Line], and [Fprintf] and [Sprintf] which apply it to what they are given
//	CSV        [Cell]
//	Markdown   [Markdown]
//
// JSON is exact, since its encoding leaves nothing to interpret. HTML is html/template's, given a [Line]; YAML is its
// encoder's. The package does not make text shorter where it is kept, only where it is shown.
package escape

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLine is the most that [Line] leaves of a text, in bytes: one name of a megabyte must not fill a screen.
const MaxLine = 4096

// Line is s as one line of a terminal, in which nothing moves the cursor, changes a colour, rings, ends the line or
// turns the direction of what follows: characters that print nothing, and bytes that are no UTF-8, become Go's escapes
// such as \x1b, \n or \u202e. A longer text than MaxLine has its middle cut out. Text without any of these is unchanged.
func Line(s string) string {
	if len(s) > MaxLine {
		s = Middle(s, MaxLine)
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !shown(r, n) {
			return escapeFrom(s, i)
		}
		i += n
	}
	return s
}

// shown reports whether a rune of n bytes prints as itself. Joiners are not shown although they make emoji: they also
// make two names look alike.
func shown(r rune, n int) bool { return strconv.IsGraphic(r) && (r != utf8.RuneError || n > 1) }

func escapeFrom(s string, i int) string {
	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if shown(r, n) {
			b.WriteString(s[i : i+n])
		} else {
			q := strconv.Quote(s[i : i+n]) // of the bytes: what is no UTF-8 becomes \xff and not U+FFFD
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// Middle is s in at most n bytes, the middle replaced by its length: the end of a tensor's name tells it apart, its
// beginning where it belongs. n is at least 64. Characters are not cut in two.
func Middle(s string, n int) string {
	if len(s) <= n {
		return s
	}
	gap := "...(" + strconv.Itoa(len(s)) + " bytes)..."
	head := (n - len(gap)) / 3
	tail := n - len(gap) - head
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	from := len(s) - tail
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return s[:head] + gap + s[from:]
}

// Cell is a text for a column of CSV. Spreadsheets take a cell that begins with one of = + - @ for a formula, so it gets
// an apostrophe before it, by which they know text; a reader that wants the name drops the apostrophe. Control
// characters, which RFC 4180 does not have in a field, are escaped as by [Line]. Figures must not go through it: -1 is one.
func Cell(s string) string {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !shown(r, n) {
			s = escapeFrom(s, i)
			break
		}
		i += n
	}
	switch r, _ := utf8.DecodeRuneInString(s); r {
	case '=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20', '\'': // also full width, and the mark itself
		return "'" + s
	}
	return s
}

// Markdown is s as text within a line of CommonMark with GitHub's extensions: no markup, HTML, link, table border or
// entity, and the escapes of [Line].
func Markdown(s string) string {
	s = Line(s)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case strings.IndexByte("\\`*[]<>|~&#!$", c) >= 0,
			c == '_' && !(i > 0 && i+1 < len(s) && alnum(s[i-1]) && alnum(s[i+1])),                   // within a word it is only itself
			c == ':' && strings.HasPrefix(s[i:], "://"), c == '.' && strings.HasSuffix(s[:i], "www"): // GitHub links these
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

func alnum(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' }
