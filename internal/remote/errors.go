package remote

import (
	"fmt"
	"strings"
)

// An Error is a source that cannot be had from its server, or a server that does not do what it must.
type Error struct {
	Path     string // the source or file, as hf://org/name@revision/file or by its address; never with a signature or a token in it
	Expected string // "" if Found says it all
	Found    string
	Hint     string // what to do next, "" if nothing is known to help; not part of Error's text
	Err      error  // the cause, may be nil

	status int  // of the answer; 0 if there was none
	unseen bool // no server has answered
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path + ": ")
	if e.Expected != "" {
		fmt.Fprintf(&b, "expected %s, found ", e.Expected)
	}
	b.WriteString(e.Found)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// clip shortens text from a server for a message.
func clip(s string) string {
	const limit = 160
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
