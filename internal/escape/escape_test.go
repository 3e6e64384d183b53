package escape

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestLine(t *testing.T) {
	for _, k := range []struct{ in, want string }{
		{"", ""},
		{"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
		{`C:\models\a`, `C:\models\a`},
		{"größe/模型/é", "größe/模型/é"},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"a\nnf4kit: error: b", `a\nnf4kit: error: b`},
		{"a\r\tb\a\b\x00\x7f", `a\r\tb\a\b\x00\x7f`},
		{"\u009b31m", `\u009b31m`},                 // the one-character CSI
		{"\u202egnp.\u2066x", `\u202egnp.\u2066x`}, // bidirectional controls
		{"a\u2028b\u2029", `a\u2028b\u2029`},
		{"a\u200bb\ufeff", `a\u200bb\ufeff`},
		{"\xff\xfe\x9b", `\xff\xfe\x9b`},
		{"\ufffd", "\ufffd"}, // a replacement character that is in the text itself
	} {
		if got := Line(k.in); got != k.want {
			t.Errorf("Line(%q) = %q; want %q", k.in, got, k.want)
		}
	}
}

func TestMiddle(t *testing.T) {
	s := "model." + strings.Repeat("é", 1<<19) + ".weight"
	got := Middle(s, 160)
	if len(got) > 160 || !utf8.ValidString(got) || !strings.HasPrefix(got, "model.") || !strings.HasSuffix(got, ".weight") ||
		!strings.Contains(got, "(1048589 bytes)") {
		t.Errorf("Middle: %q", got)
	}
	if got := Middle("short", 64); got != "short" {
		t.Errorf("Middle of a short text: %q", got)
	}
	if got := Line(s); len(got) > MaxLine {
		t.Errorf("Line left %d bytes", len(got))
	}
}

func TestCell(t *testing.T) {
	for _, k := range []struct{ in, want string }{
		{"q_proj", "q_proj"},
		{"=HYPERLINK(\"http://x\")", "'=HYPERLINK(\"http://x\")"},
		{"+1", "'+1"}, {"-1", "'-1"}, {"@SUM(A1)", "'@SUM(A1)"},
		{"\t=1", `\t=1`}, {"\r=1", `\r=1`},
		{"＝1", "'＝1"},
		{"'=1", "''=1"}, // so that dropping one apostrophe gives the name back
		{"a=1", "a=1"},
	} {
		if got := Cell(k.in); got != k.want {
			t.Errorf("Cell(%q) = %q; want %q", k.in, got, k.want)
		}
	}
	long := strings.Repeat("x", 3*MaxLine)
	if Cell(long) != long {
		t.Error("a long name was cut in a file")
	}
}

func TestMarkdown(t *testing.T) {
	for _, k := range []struct{ in, want string }{
		{"down_proj", "down_proj"},
		{"nf4,block=64,dq", "nf4,block=64,dq"},
		{"[a](javascript:alert(1))", `\[a\](javascript:alert(1))`},
		{"<script>alert(1)</script>", `\<script\>alert(1)\</script\>`},
		{"a|b", `a\|b`},
		{"a\\|b", `a\\\|b`},
		{"_x_ *y* `z`", "\\_x\\_ \\*y\\* \\`z\\`"},
		{"![i](http://e/x.png)", `\!\[i\](http\://e/x.png)`},
		{"www.evil.example", `www\.evil.example`},
		{"a\n\n# b", `a\\n\\n\# b`},
		{"&lt;", `\&lt;`},
	} {
		if got := Markdown(k.in); got != k.want {
			t.Errorf("Markdown(%q) = %q; want %q", k.in, got, k.want)
		}
	}
}

type stringer struct{}

func (stringer) String() string { return "s\x1b" }

func TestSprintf(t *testing.T) {
	evil := "a\x1b[2J\nb"
	for _, k := range []struct{ got, want string }{
		{Sprintf("%s\n", evil), "a\\x1b[2J\\nb\n"},
		{Sprintf("%v|%-6s|%6s|%.2s", errors.New(evil), "x", "y\a", "zzzz"), "a\\x1b[2J\\nb|x     |   y\\a|zz"},
		{Sprintf("%q", evil), strconv.Quote(evil)},
		{Sprintf("%d %.2f %*d %t %[1]d", 1, 2.5, 4, 7, true), "1 2.50    7 true 1"},
		{Sprintf("%s %v", stringer{}, []string{evil}), `s\x1b [a\x1b[2J\nb]`},
		{Sprintf("%v", errors.Join(errors.New("one"), errors.New("two\n"))), `one; two\n`},
		{Sprintf("%v", fmt.Errorf("%w and %w", errors.New("one"), errors.New("two"))), "one and two"},
		{Sprintf("%08b %x %c", uint8(5), []byte{1, 2}, 'x'), "00000101 0102 x"},
	} {
		if diff := cmp.Diff(k.want, k.got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// FuzzEscape holds every rule to what it is for, whatever the text.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "a", "=1", "\x1b]0;x\a", "\u202e", "\xff", "[a](b)", "a|b\n", strings.Repeat("é", MaxLine)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, got := range map[string]string{"Line": Line(s), "Cell": Cell(s), "Markdown": Markdown(s), "Sprintf": Sprintf("%s", s)} {
			if !utf8.ValidString(got) {
				t.Errorf("%s: not UTF-8: %q", name, got)
			}
			if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) }); i >= 0 {
				t.Errorf("%s: %q at %d of %q", name, got[i:], i, got)
			}
		}
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		if err := w.Write([]string{Cell(s), "1"}); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(rows) != 1 || len(rows[0]) != 2 || rows[0][0] != Cell(s) {
			t.Fatalf("CSV of %q: %v %q", s, err, rows)
		}
		if c := Cell(s); c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			t.Errorf("Cell: %q", c)
		}
	})
}
