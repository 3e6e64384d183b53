package escape

import (
	"fmt"
	"io"
	"strings"
)

// Fprintf is fmt.Fprintf to a terminal: what %s and %v print of a string, an error or another value is a [Line]. Other verbs
// stay as they are: %q quotes already. The format is ours and may have line ends.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	return fmt.Fprintf(w, format, lines(args)...)
}

// Sprintf is the same as a string.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, lines(args)...) }

func lines(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch a.(type) {
		case int, int32, int64, uint64, float64, bool: // stay, so that * can take its width from one
			out[i] = a
		default:
			out[i] = arg{a}
		}
	}
	return out
}

// arg is an argument of which only the shown form is escaped.
type arg struct{ v any }

func (a arg) Format(f fmt.State, verb rune) {
	format := fmt.FormatString(f, verb)
	if verb != 's' && verb != 'v' {
		fmt.Fprintf(f, format, a.v)
		return
	}
	s := text(a.v)
	fmt.Fprintf(f, strings.TrimSuffix(format, string(verb))+"s", s)
}

// text is v on one line. The parts of a joined error, which stand on lines of their own, are put behind each other.
func text(v any) string {
	if err, ok := v.(error); ok {
		if j, ok := err.(interface{ Unwrap() []error }); ok && isJoin(err, j.Unwrap()) {
			parts := make([]string, 0, len(j.Unwrap()))
			for _, e := range j.Unwrap() {
				parts = append(parts, text(e))
			}
			return strings.Join(parts, "; ")
		}
		return Line(err.Error())
	}
	if s, ok := v.(string); ok {
		return Line(s)
	}
	return Line(fmt.Sprint(v))
}

// isJoin reports whether err is errors.Join's: others that wrap several errors have a text of their own.
func isJoin(err error, parts []error) bool {
	texts := make([]string, len(parts))
	for i, e := range parts {
		texts[i] = e.Error()
	}
	return err.Error() == strings.Join(texts, "\n")
}
