package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// A fetcher is a file at a server.
type fetcher interface {
	// head reads the first bytes, at most n, and tells the size.
	head(ctx context.Context, n int) (first []byte, size int64, err error)
	// fetch fills p with the bytes from off on, which the file has.
	fetch(ctx context.Context, p []byte, off int64) error
	// identity tells one content of the file from another; "" if the server does not say.
	identity() string
}

// wholeLimit is the size up to which a file may come from a server that knows no ranges.
const wholeLimit = 16 << 20

// An object is a file that HTTP gives. What it is must not change while it is read: its size, and its ETag if the server says one.
type object struct {
	c       *client
	path    string // for messages
	at      *url.URL
	oid     string              // by which a hub lists the content, "" elsewhere
	refused func(*answer) error // makes an error of a status

	mu     sync.Mutex
	size   int64    // -1 until it is known
	direct *url.URL // where at has led to: a signed address that ends some day
	etag   string   // of direct, or of at
	linked string   // of what a hub's answer links to

	modified string // when, by a server without ETags
}

func (o *object) identity() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return cmp.Or(o.oid, o.linked, o.etag, o.modified, "at "+shown(o.at)) // never "", which stands for a file of this machine
}

func (o *object) head(ctx context.Context, n int) ([]byte, int64, error) {
	if o.size >= 0 { // as the hub lists it; nobody else has the object yet
		n = int(min(int64(n), o.size))
	}
	p := make([]byte, n)
	if n == 0 {
		return p, o.size, nil
	}
	read, err := o.fill(ctx, p, 0)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil && int64(read) < min(int64(n), o.size) {
		err = fmt.Errorf("read %s: %w", o.path, io.ErrUnexpectedEOF)
	}
	return p[:read], o.size, err
}

func (o *object) fetch(ctx context.Context, p []byte, off int64) error {
	n, err := o.fill(ctx, p, off)
	if err == nil && n < len(p) {
		err = fmt.Errorf("read %s: %w", o.path, io.ErrUnexpectedEOF)
	}
	return err
}

// errExpired is the answer to a signed address that has ended.
var errExpired = errors.New("the signed address has expired")

// fill reads what of p the file has at off, going on where an answer broke off.
func (o *object) fill(ctx context.Context, p []byte, off int64) (int, error) {
	done, failures, expired := 0, 0, 0
	for {
		n, err := o.once(ctx, p[done:], off+int64(done))
		done += n
		if o.ended(off+int64(done)) || done == len(p) {
			return done, nil
		}
		if n >= progressBytes {
			failures, expired = 0, 0
		}
		switch {
		case ctx.Err() != nil:
			return done, ctx.Err()
		case err == nil: // a shorter range than was asked for, which servers may give
			if n == 0 {
				return done, &Error{Path: o.path, Expected: fmt.Sprintf("bytes from %d on", off+int64(done)), Found: "an empty answer"}
			}
			continue
		case errors.Is(err, errExpired):
			if expired++; expired <= 2 {
				continue // by a fresh one
			}
		}
		failures++
		if err := o.c.again(ctx, err, failures); err != nil {
			return done, err
		}
	}
}

func (o *object) ended(off int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size >= 0 && off >= o.size
}

// once asks for p at off once, and reads what comes.
func (o *object) once(ctx context.Context, p []byte, off int64) (int, error) {
	o.mu.Lock()
	from := o.at
	if o.direct != nil {
		from = o.direct
	}
	o.mu.Unlock()
	a, err := o.c.get(ctx, o.path, from, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	if err != nil {
		return 0, err
	}
	defer a.body.close()
	if err := busy(o.path, a); err != nil {
		return 0, err
	}
	switch a.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, o.outside(a, off)
	default:
		return 0, o.status(a, from)
	}
	if e := a.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return 0, &Error{Path: o.path, Expected: "the file as it is", Found: "an answer packed by " + clip(e)}
	}
	n, skip, err := o.extent(a, int64(len(p)), off)
	if err != nil {
		return 0, err
	}
	if err := o.pin(a, from); err != nil {
		return 0, err
	}
	if _, err := io.CopyN(io.Discard, a.body, skip); err != nil {
		return 0, o.broken(ctx, err)
	}
	read, err := io.ReadFull(a.body, p[:n])
	if err != nil {
		return read, o.broken(ctx, err)
	}
	return read, nil
}

// broken is the failure of an answer that ends early.
func (o *object) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &transient{err: &Error{Path: o.path, Found: "an answer that breaks off", Err: bare(err), Hint: "the connection is lost again and again: try later"}}
}

// status is the error of a status that is no success.
func (o *object) status(a *answer, from *url.URL) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	ended := a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusBadRequest ||
		a.StatusCode == http.StatusGone || a.StatusCode == http.StatusNotFound && from != o.at
	if ended && (a.moved || from != o.at) {
		if o.direct == from {
			o.direct = nil
		}
		return &transient{err: fmt.Errorf("%w", &Error{Path: o.path, Found: "the answer " + a.Status + " of " + clip(a.at.Host), status: a.StatusCode,
			Err: errExpired, Hint: "the server to which the hub leads refuses: try later"})}
	}
	return o.refused(a)
}

// outside is the error of a range that the file does not have.
func (o *object) outside(a *answer, off int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if total, ok := strings.CutPrefix(a.Header.Get("Content-Range"), "bytes */"); ok && o.size < 0 && off == 0 && total == "0" {
		o.size = 0
		return nil
	}
	return o.changed(fmt.Sprintf("%d bytes", o.size), "fewer")
}

func (o *object) changed(want, found string) error {
	return &Error{Path: o.path, Expected: want + " as when it was opened", Found: found, Hint: "the file has changed at the server: begin again"}
}

// extent checks which bytes the answer brings: n of the want at off, after skip others.
func (o *object) extent(a *answer, want, off int64) (n, skip int64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first, last, total := int64(0), int64(-1), a.ContentLength
	if a.StatusCode == http.StatusPartialContent {
		var ok bool
		if first, last, total, ok = parseContentRange(a.Header.Get("Content-Range")); !ok || first != off || last >= off+want {
			return 0, 0, &transient{err: &Error{Path: o.path, Expected: fmt.Sprintf("bytes %d to %d", off, off+want-1),
				Found: fmt.Sprintf("an answer of %q", clip(a.Header.Get("Content-Range"))), Hint: "the server does not keep to ranges: download the model first"}}
		}
	}
	switch {
	case total < 0 && o.size < 0:
		return 0, 0, &Error{Path: o.path, Expected: "a server that tells the size of a file", Found: "none", Hint: "download the model first"}
	case o.size < 0:
		o.size = total
	case total >= 0 && total != o.size:
		return 0, 0, o.changed(fmt.Sprintf("%d bytes", o.size), fmt.Sprint(total))
	}
	if a.StatusCode == http.StatusPartialContent {
		return last - first + 1, 0, nil
	}
	if o.size > wholeLimit {
		return 0, 0, &Error{Path: o.path, Expected: "a server that gives ranges of files", Found: "one that gives whole files alone", Hint: "download the model first"}
	}
	return max(0, min(want, o.size-off)), min(off, o.size), nil
}

// pin remembers what the file is, and refuses another. from is the address that was asked.
func (o *object) pin(a *answer, from *url.URL) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id := a.first.Get("X-Linked-Etag"); id != "" && from == o.at {
		if o.linked != "" && o.linked != id {
			return o.changed("ETag "+clip(o.linked), clip(id))
		}
		o.linked = id
	}
	if id := strings.Trim(a.Header.Get("ETag"), `"`); id != "" {
		if o.etag != "" && o.etag != id {
			return o.changed("ETag "+clip(o.etag), clip(id))
		}
		o.etag = id
	}
	o.modified = a.Header.Get("Last-Modified")
	if a.moved && from == o.at {
		o.direct = a.at
	}
	return nil
}

// parseContentRange reads "bytes first-last/total", total -1 if it is *.
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, found := strings.CutPrefix(s, "bytes ")
	span, size, found2 := strings.Cut(s, "/")
	a, b, found3 := strings.Cut(span, "-")
	if !found || !found2 || !found3 {
		return 0, 0, 0, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return -1
		}
		return int64(n)
	}
	first, last, total = number(a), number(b), -1
	if size != "*" {
		if total = number(size); total < 0 || last >= total {
			return 0, 0, 0, false
		}
	}
	return first, last, total, first >= 0 && last >= first
}

// notFound is the error of a file that a server says it does not have.
func notFound(path string, a *answer) error {
	if a.StatusCode == http.StatusNotFound || a.StatusCode == http.StatusGone {
		return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return &Error{Path: path, Found: "the answer " + a.Status, status: a.StatusCode}
}
