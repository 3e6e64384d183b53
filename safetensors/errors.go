package safetensors

import (
	"errors"
	"fmt"
	"strings"
)

// ErrHeaderTooLarge is wrapped by the error of a header over 100,000,000 bytes,
// the limit of the reference implementation, in reading and in writing.
var ErrHeaderTooLarge = errors.New("header over the limit of 100000000 bytes")

// FormatError reports a file that is not valid safetensors: broken, truncated
// or made to mislead.
type FormatError struct {
	File   string // as given to [Open]; empty for [NewReader]
	Tensor string // the tensor at fault; empty if no single one is
	Offset int64  // the place in the file, in bytes from its start; -1 if none
	Msg    string // what was expected and what was found
	Err    error  // the cause, such as [io.ErrUnexpectedEOF] or [ErrHeaderTooLarge]; may be nil

	named bool // Tensor is meaningful even if empty
}

func (e *FormatError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(": ")
	}
	b.WriteString("invalid safetensors: ")
	if e.named || e.Tensor != "" {
		fmt.Fprintf(&b, "tensor %s: ", quote(e.Tensor))
	}
	b.WriteString(e.Msg)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, " (at byte %d)", e.Offset)
	}
	return b.String()
}

func (e *FormatError) Unwrap() error { return e.Err }

// UnsupportedError reports a dtype that this package has never seen. The file
// may be valid by a newer version of the format.
type UnsupportedError struct {
	File   string // as given to [Open]; empty for [NewReader] and [ParseDType]
	Tensor string // empty for [ParseDType]
	DType  string // as spelled in the header

	named bool // Tensor is meaningful even if empty
}

func (e *UnsupportedError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(": ")
	}
	b.WriteString("unsupported safetensors: ")
	if e.named || e.Tensor != "" {
		fmt.Fprintf(&b, "tensor %s: ", quote(e.Tensor))
	}
	fmt.Fprintf(&b, "unknown dtype %s, known are %s", quote(e.DType), knownDTypes)
	return b.String()
}

// maxQuoted bounds what a hostile header can put into an error text.
const maxQuoted = 256

// quote shows a string from a file in one line: control characters escaped and
// anything very long cut.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:maxQuoted], len(s))
}

// setFile puts the name of the file into an error of this package and leaves
// any other error alone.
func setFile(err error, name string) {
	if fe, ok := errors.AsType[*FormatError](err); ok {
		fe.File = name
	}
	if ue, ok := errors.AsType[*UnsupportedError](err); ok {
		ue.File = name
	}
}
