//go:build linux

package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shownOnTerminals are the commands of docs/terminals.md, and the names of their pictures.
var shownOnTerminals = map[string]string{
	"convert llama llama-nf4":                    "convert",
	"measure llama":                              "measure",
	"plan llama-2-7b --gpu RTX 4090 --no-advice": "plan",
	"verify llama-nf4 --source llama":            "verify",
}

// A cell is a character on a terminal, with the parameters of its colour.
type cell struct {
	char   rune
	colour string
}

// A drawnLine is a line of a terminal as it is left, and how far to the right anything was ever drawn on it.
type drawnLine struct {
	cells   []cell
	reached int
}

func (l *drawnLine) put(at int, c cell) {
	for len(l.cells) <= at {
		l.cells = append(l.cells, cell{char: ' '})
	}
	l.cells[at] = c
	if c.char != ' ' {
		l.reached = max(l.reached, at+1)
	}
}

func (l *drawnLine) String() string {
	var b strings.Builder
	for _, c := range l.cells {
		b.WriteRune(c.char)
	}
	return strings.TrimRight(b.String(), " ")
}

// draw does what a terminal of any width does with text, returns, colours and the clearing of lines.
func draw(out string) []*drawnLine {
	lines := []*drawnLine{{}}
	column, colour := 0, ""
	for rest := []rune(out); len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch {
		case c == '\r':
			column = 0
		case c == '\n':
			lines, column = append(lines, &drawnLine{}), 0
		case c == '\x1b' && len(rest) > 0 && rest[0] == '[':
			end := 1
			for end < len(rest)-1 && (rest[end] < '@' || rest[end] > '~') {
				end++
			}
			parameters := string(rest[1:end])
			switch rest[end] {
			case 'm':
				colour = strings.TrimLeft(parameters, "0")
			case 'K':
				lines[len(lines)-1].cells = nil
			}
			rest = rest[end+1:]
		default:
			lines[len(lines)-1].put(column, cell{c, colour})
			column++
		}
	}
	return lines
}

// palette is the colours that are used, on a dark ground.
var palette = map[string]string{"31": "#f14c4c", "32": "#23d18b", "33": "#e5c07b"}

// svg draws lines on a terminal, below the command that wrote them. A line has the length of its columns, whatever the font is.
func svg(command string, columns int, lines []*drawnLine) string {
	const wide, high, margin = 7.8, 17, 12
	for len(lines) > 0 && lines[len(lines)-1].String() == "" {
		lines = lines[:len(lines)-1]
	}
	all := append([]*drawnLine{{}}, lines...)
	for i, c := range []rune("$ " + command) {
		all[0].put(i, cell{char: c})
	}
	width, height := float64(columns)*wide+2*margin, len(all)*high+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.1f %d" width="%.1f" height="%d">`+"\n", width, height, width, height)
	b.WriteString(`<rect width="100%" height="100%" rx="6" fill="#1e1e1e"/>` + "\n")
	b.WriteString(`<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" fill="#d4d4d4" xml:space="preserve" style="white-space:pre">` + "\n")
	for i, l := range all {
		text := []rune(normalize(l.String()))
		if len(text) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs">`, margin, margin+high*i+13, float64(len(text))*wide)
		for from := 0; from < len(text); {
			to, colour := from, colourAt(l, from)
			for to < len(text) && colourAt(l, to) == colour {
				to++
			}
			run := html.EscapeString(string(text[from:to]))
			if fill := palette[colour]; fill != "" {
				run = fmt.Sprintf(`<tspan fill="%s">%s</tspan>`, fill, run)
			}
			b.WriteString(run)
			from = to
		}
		b.WriteString("</text>\n")
	}
	return b.String() + "</g>\n</svg>\n"
}

func colourAt(l *drawnLine, at int) string {
	if at < len(l.cells) {
		return l.cells[at].colour
	}
	return ""
}

func comparePicture(t *testing.T, name, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("docs/terminal/%s is not what is shown (-file +now; go test ./cmd/nf4kit -run TerminalWidths -update):\n%s", filepath.Base(name), d)
	}
}

func TestDraw(t *testing.T) {
	for _, c := range []struct {
		out     string
		want    []string
		reached int // of the first line
	}{
		{"one\r\ntwo\r\n", []string{"one", "two", ""}, 3},
		{"a long bar\r          \rdone\r\n", []string{"done", ""}, 10},
		{"a long bar\x1b[2K\rdone", []string{"done"}, 10},
		{"\x1b[31mred\x1b[0m, not", []string{"red, not"}, 8},
	} {
		lines := draw(c.out)
		var got []string
		for _, l := range lines {
			got = append(got, l.String())
		}
		if d := cmp.Diff(c.want, got); d != "" || lines[0].reached != c.reached {
			t.Errorf("%q reached %d, want %d (-want +got):\n%s", c.out, lines[0].reached, c.reached, d)
		}
	}
	l := draw("\x1b[31mred\x1b[0m, not")[0]
	if colourAt(l, 0) != "31" || colourAt(l, 3) != "" || !strings.Contains(svg("x", 20, []*drawnLine{l}), `<tspan fill="#f14c4c">red</tspan>, not`) {
		t.Errorf("colours: %+v", l)
	}
}
