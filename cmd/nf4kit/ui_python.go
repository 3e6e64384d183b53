package main

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// breakPython breaks the lines of a script that are wider than columns, where it stays the same to Python: within brackets
// at a space or after what opens them, an import's names with brackets around them, comments between words and those beside
// code on lines before it. A line without such a place stays as it is, and all do where columns is 0.
func breakPython(code string, columns int) string {
	if columns == 0 {
		return code
	}
	var b strings.Builder
	depth := 0 // brackets that are open before the line
	for line := range strings.Lines(code) {
		statement, comment := cutComment(strings.TrimSuffix(line, "\n"))
		indent := statement[:len(statement)-len(strings.TrimLeft(statement, " "))]
		switch {
		case len(line)-1 <= columns:
			b.WriteString(line)
		case comment == "":
			breakStatement(&b, statement, depth, columns)
		default:
			b.WriteString(wrapComment(indent, comment, columns))
			if strings.TrimSpace(statement) != "" {
				breakStatement(&b, strings.TrimRight(statement, " "), depth, columns)
			}
		}
		depth = nesting(statement, depth, nil)
	}
	return b.String()
}

// cutComment splits a line where a comment begins.
func cutComment(line string) (statement, comment string) {
	at := len(line)
	nesting(line, 0, func(i int, inString bool, _ int) {
		if line[i] == '#' && !inString {
			at = min(at, i)
		}
	})
	return line[:at], line[at:]
}

// nesting is how many brackets are open after a line that begins with depth of them open. Each byte is shown before it
// counts, with whether a string goes on in it.
func nesting(line string, depth int, show func(i int, inString bool, depth int)) int {
	var quote byte
	for i := 0; i < len(line); i++ {
		c := line[i]
		if show != nil {
			show(i, quote != 0, depth)
		}
		switch {
		case quote != 0 && c == '\\':
			i++ // what it escapes
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			return depth
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		}
	}
	return depth
}

func wrapComment(indent, comment string, columns int) string {
	var b strings.Builder
	line := indent + "#"
	for _, word := range strings.Fields(strings.TrimPrefix(comment, "#")) {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns && line != indent+"#" {
			b.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// printPython prints a script, broken where w is a narrow terminal.
func printPython(w io.Writer, code string) {
	code = breakPython(code, terminalWidth(w))
	if out, ok := w.(*stickyWriter); ok {
		columns := out.columns
		out.columns = 0 // what is too wide yet has no place to be broken at
		defer func() { out.columns = columns }()
	}
	for line := range strings.Lines(code) {
		escape.Fprintf(w, "%s\n", strings.TrimSuffix(line, "\n"))
	}
}

// breakStatement writes a line without comment, and breaks it at the last place that fits, or else the first there is.
func breakStatement(b *strings.Builder, line string, depth, columns int) {
	if head, names, ok := strings.Cut(line, " import "); ok && depth == 0 && strings.HasPrefix(strings.TrimLeft(head, " "), "from ") &&
		!strings.HasPrefix(names, "(") && len(line) > columns {
		line = head + " import (" + names + ")"
	}
	hang := line[:len(line)-len(strings.TrimLeft(line, " "))]
	if depth == 0 {
		hang += "    "
	}
	for utf8.RuneCountInString(line) > columns {
		at := 0
		nesting(line, depth, func(i int, inString bool, depth int) {
			place := depth > 0 && !inString && (line[i] == ' ' || i > 0 && strings.IndexByte("([{", line[i-1]) >= 0 && line[i] != ' ')
			if place && strings.TrimSpace(line[:i]) != "" && (at == 0 || utf8.RuneCountInString(line[:i]) <= columns) {
				at = i
			}
		})
		if at == 0 {
			break
		}
		depth = nesting(line[:at], depth, nil)
		b.WriteString(strings.TrimRight(line[:at], " ") + "\n")
		line = hang + strings.TrimLeft(line[at:], " ")
	}
	b.WriteString(line + "\n")
}
