package checkpoint

import (
	"fmt"
	"regexp"
	"strings"
)

// InputError is something wrong or unsupported in what a checkpoint contains, as against a failure to read it.
type InputError struct {
	File     string // path or name of the file at fault
	Tensor   string // the tensor or JSON key at fault, "" if none
	Expected string
	Found    string
	Hint     string // what to do next, "" if nothing is known to help; not part of Error's text
	Err      error  // the cause, may be nil
}

func (e *InputError) Error() string {
	var b strings.Builder
	for _, part := range []string{e.File, e.Tensor} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	fmt.Fprintf(&b, "expected %s, found %s", e.Expected, e.Found)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

func (e *InputError) Unwrap() error { return e.Err }

// MissingError is a source that is not there.
type MissingError struct {
	Path string
	Err  error
}

func (e *MissingError) Error() string { return fmt.Sprintf("open source: %v", e.Err) }
func (e *MissingError) Unwrap() error { return e.Err }

// repositories are names such as org/model, which is how a hub calls a model.
var repositories = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Hint says what the path may have meant.
func (e *MissingError) Hint() string {
	if !repositories.MatchString(e.Path) {
		return ""
	}
	return "if the model of a hub is meant: hf://" + e.Path
}

// OutputError is a destination that must not or cannot be written. Nothing was changed.
type OutputError struct {
	Path   string
	Reason string // "exists and is not empty"
	Hint   string // what to do next; not part of Error's text
	Err    error  // the cause, may be nil
}

func (e *OutputError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("write %s: %s: %v", e.Path, e.Reason, e.Err)
	}
	return fmt.Sprintf("write %s: %s", e.Path, e.Reason)
}

func (e *OutputError) Unwrap() error { return e.Err }

// SpaceError is too little room on the file system of Path.
type SpaceError struct {
	Path       string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("write %s: expected %d bytes of free disk space, found %d", e.Path, e.Need, e.Free)
}

// clip shortens text from a file for a message.
func clip(s string) string {
	const limit = 120
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
