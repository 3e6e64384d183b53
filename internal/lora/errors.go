package lora

import (
	"fmt"
	"strings"
)

// An Error is something wrong or unsupported in an adapter, or in how it fits its base.
type Error struct {
	Path   string // of the adapter or the file at fault
	Key    string // the key of its config or the name of its tensor, "" if no single one is
	Expect string
	Found  string
	Hint   string // what to do next, "" if nothing is known to help; not part of Error's text
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path + ": ")
	if e.Key != "" {
		fmt.Fprintf(&b, "%q: ", clip(e.Key))
	}
	fmt.Fprintf(&b, "expected %s, found %s", e.Expect, e.Found)
	return b.String()
}

// clip shortens a name from a file for a message.
func clip(s string) string {
	const limit = 200
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
