package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// attempts is how often something is tried that brings nothing; a range goes on where it broke off, and what brings
	// progressBytes is no failure.
	attempts      = 6
	progressBytes = 64 << 10

	firstWait = 500 * time.Millisecond
	mostWait  = 30 * time.Second
	// mostRetryAfter is how long a server may ask to be left alone.
	mostRetryAfter = 5 * time.Minute

	// A request that brings less than stallBytes in stallTime is given up: a server that sends a byte now and then holds nobody.
	stallTime  = 30 * time.Second
	stallBytes = 16 << 10

	maxRedirects = 10
)

// A client asks servers. It sends the token to the hub's own scheme, host and port alone.
type client struct {
	http  *http.Client
	agent string
	token string
	hub   *url.URL                  // that the token is for
	sign  func(*http.Request) error // signs requests of an object store; nil elsewhere

	conns int // requests for contents at once
	stall time.Duration
	sleep func(ctx context.Context, d time.Duration) error

	requests, received atomic.Int64 // requests sent, bytes of bodies
}

func newClient(agent string, env environment) (*client, error) {
	hub, err := url.Parse(env.endpoint)
	if err != nil || hub.Scheme != "https" && hub.Scheme != "http" || hub.Host == "" {
		return nil, &Error{Path: "HF_ENDPOINT", Expected: "an address such as " + DefaultEndpoint, Found: clip(redact(env.endpoint))}
	}
	return &client{
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
				TLSHandshakeTimeout:    15 * time.Second,
				MaxIdleConnsPerHost:    2 * connections,
				IdleConnTimeout:        90 * time.Second,
				MaxResponseHeaderBytes: 256 << 10,
				DisableCompression:     true, // ranges are of the file, not of what it is packed into
				// One connection a range: servers bound what each of them gets, and HTTP/2 would put all into one.
				TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		agent: agent, token: env.token, hub: hub, conns: connections, stall: stallTime, sleep: sleep,
	}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// An answer is a response that is no redirect, whose body ends with an error where it stalls. It must be closed.
type answer struct {
	*http.Response
	at    *url.URL    // that answered
	moved bool        // another address than was asked
	first http.Header // of the address that was asked
	body  *watched
}

func (a *answer) close() {
	_, _ = io.CopyN(io.Discard, a.body, 4<<10) // the connection can be used again if the body is at its end
	a.body.close()
}

// transient is a failure that may not come again.
type transient struct {
	err   error
	after time.Duration // that the server asks to wait
}

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// errStalled is the cause of the end of a request that brings nothing.
var errStalled = errors.New("the server sends nothing, or next to nothing")

// get asks for u, of which byteRange is sent if it is not "", and follows redirects: to http or https, never from https to
// http. path stands for u in errors.
func (c *client) get(ctx context.Context, path string, u *url.URL, byteRange string) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{cancel: cancel, stall: c.stall, received: &c.received}
	w.timer = time.AfterFunc(c.stall, func() { cancel(errStalled) })
	a := &answer{at: u, body: w}
	for range maxRedirects {
		resp, err := c.send(ctx, a.at, byteRange)
		if err != nil {
			err = c.failed(ctx, path, err)
			w.close()
			return nil, err
		}
		if a.first == nil {
			a.first = resp.Header
		}
		next, err := redirect(path, a.at, resp)
		if err != nil {
			_ = resp.Body.Close()
			w.close()
			return nil, err
		}
		if next == nil {
			a.Response, w.body = resp, resp.Body
			return a, nil
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		_ = resp.Body.Close()
		a.at, a.moved = next, true
	}
	w.close()
	return nil, &Error{Path: path, Found: fmt.Sprintf("more than %d redirects, one after the other", maxRedirects), Hint: "the server is at fault: try later, or another copy"}
}

func (c *client) send(ctx context.Context, u *url.URL, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if c.sign != nil { // before what servers on the way may change
		if err := c.sign(req); err != nil {
			return nil, err
		}
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	if c.token != "" && sameOrigin(u, c.hub) {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	c.requests.Add(1)
	return c.http.Do(req)
}

// redirect is where resp leads, nil if it is no redirect.
func redirect(path string, from *url.URL, resp *http.Response) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	if resp.StatusCode == http.StatusMovedPermanently && resp.Header.Get("X-Amz-Bucket-Region") != "" {
		return nil, nil // to another region, for which it would have to be signed anew
	}
	next, err := from.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil || resp.Header.Get("Location") == "":
		return nil, &Error{Path: path, Found: "a redirect to no address"}
	case next.Scheme != "https" && next.Scheme != "http" || next.Host == "":
		return nil, &Error{Path: path, Expected: "a redirect to http or https", Found: clip(shown(next))}
	case from.Scheme == "https" && next.Scheme == "http":
		return nil, &Error{Path: path, Expected: "a redirect to https, as the address is", Found: clip(shown(next)), Hint: "what comes without TLS may be anybody's"}
	}
	next.User = nil
	return next, nil
}

// failed makes an error of one that no server answered with.
func (c *client) failed(ctx context.Context, path string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errStalled) {
		return cause
	} else if cause != nil {
		err = cause
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the address, which may be signed
	}
	e := &Error{Path: path, Found: "no answer", Err: err, unseen: true, Hint: "is the network up? HTTPS_PROXY names a proxy, HF_ENDPOINT another hub"}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &dns) && dns.IsNotFound {
		return e
	}
	if errors.As(err, &cert) || errors.As(err, &unknown) {
		e.Hint = "SSL_CERT_FILE names further certificates to trust, such as those of a proxy"
		return e
	}
	return &transient{err: e}
}

// A watched body ends its request when it brings too little.
type watched struct {
	body     io.ReadCloser
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	stall    time.Duration
	since    int
	received *atomic.Int64
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	w.received.Add(int64(n))
	if w.since += n; w.since >= stallBytes {
		w.since = 0
		w.timer.Reset(w.stall)
	}
	return n, err
}

func (w *watched) close() {
	w.timer.Stop()
	if w.body != nil {
		_ = w.body.Close()
	}
	w.cancel(nil)
}

// busy is the failure of a status with which servers say that they cannot now; nil for others.
func busy(path string, a *answer) error {
	switch a.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return nil
	}
	e := &Error{Path: path, Found: "the answer " + a.Status, status: a.StatusCode, Hint: "the server is at its limit: try later"}
	after := max(retryAfter(a.Header.Get("Retry-After"), time.Now()), rateLimit(a.Header.Get("RateLimit")))
	if after > mostRetryAfter {
		e.Found += fmt.Sprintf(" and the wish to wait %v", after.Round(time.Second))
		return e
	}
	return &transient{err: e, after: after}
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// rateLimit is when the hub's limit begins anew: "api";r=0;t=55 is in 55 seconds.
func rateLimit(s string) time.Duration {
	for part := range strings.SplitSeq(s, ";") {
		if t, ok := strings.CutPrefix(strings.TrimSpace(part), "t="); ok {
			return retryAfter(t, time.Time{})
		}
	}
	return 0
}

// again waits before something is tried once more that has failed so often, and returns the error if it is not to be.
func (c *client) again(ctx context.Context, err error, failures int) error {
	var t *transient
	if !errors.As(err, &t) {
		return err
	}
	if failures >= attempts {
		var e *Error
		if errors.As(err, &e) {
			last := *e
			last.Found = fmt.Sprintf("%s, %d times in a row", e.Found, failures)
			return &last
		}
		return t.err
	}
	d := min(mostWait, firstWait<<(failures-1))
	d = d/2 + rand.N(d) // so that many readers do not come back at once
	return c.sleep(ctx, max(d, t.after))
}

// fetchAll reads a small answer whole, trying again as long as that helps. refused makes an error of a status other than 200.
func (c *client) fetchAll(ctx context.Context, path string, u *url.URL, limit int64, refused func(*answer) error) ([]byte, http.Header, error) {
	for failures := 1; ; failures++ {
		raw, header, err := c.fetchOnce(ctx, path, u, limit, refused)
		if err == nil {
			return raw, header, nil
		}
		if err := c.again(ctx, err, failures); err != nil {
			return nil, nil, err
		}
	}
}

func (c *client) fetchOnce(ctx context.Context, path string, u *url.URL, limit int64, refused func(*answer) error) ([]byte, http.Header, error) {
	a, err := c.get(ctx, path, u, "")
	if err != nil {
		return nil, nil, err
	}
	defer a.close()
	if err := busy(path, a); err != nil {
		return nil, nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, nil, refused(a)
	}
	raw, err := io.ReadAll(io.LimitReader(a.body, limit+1))
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case err != nil:
		return nil, nil, &transient{err: &Error{Path: path, Found: "an answer that breaks off", Err: bare(err)}}
	case int64(len(raw)) > limit:
		return nil, nil, &Error{Path: path, Expected: fmt.Sprintf("an answer of at most %d bytes", limit), Found: "more"}
	}
	return raw, a.Header, nil
}

// bare is an error of reading a body without what it stands for in our own words.
func bare(err error) error {
	if errors.Is(err, context.Canceled) {
		return errStalled // the caller's own end was looked for before
	}
	return err
}
