package remote

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"
)

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// sending is a body that is being sent: as long as the server takes it, the request does not end.
type sending struct {
	r io.Reader
	w *watched
}

func (s sending) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if n > 0 {
		s.w.timer.Reset(max(s.w.stall, answerTime))
	}
	return n, err
}

// answerTime is how long a server may take over what it was sent.
const answerTime = 5 * time.Minute

// submit sends size bytes of body, again as long as that helps, and reads the answer. It follows no redirects.
func (c *client) submit(ctx context.Context, path, method string, u *url.URL, header http.Header, body io.ReaderAt, size int64,
	refused func(*answer) error) ([]byte, http.Header, error) {
	for failures := 1; ; failures++ {
		raw, h, err := c.submitOnce(ctx, path, method, u, header, io.NewSectionReader(body, 0, size), size, refused)
		if err == nil {
			return raw, h, nil
		}
		if err := c.again(ctx, err, failures); err != nil {
			return nil, nil, err
		}
	}
}

func (c *client) submitOnce(ctx context.Context, path, method string, u *url.URL, header http.Header, body io.Reader, size int64,
	refused func(*answer) error) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{cancel: cancel, stall: c.stall, received: &c.received}
	w.timer = time.AfterFunc(max(c.stall, answerTime), func() { cancel(errStalled) })
	defer w.close()
	sent := io.ReadCloser(http.NoBody)
	if size > 0 {
		sent = io.NopCloser(sending{body, w})
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), sent)
	if err != nil {
		return nil, nil, err
	}
	req.ContentLength = size
	if header != nil {
		req.Header = header.Clone()
	}
	if c.sign != nil {
		if err := c.sign(req); err != nil {
			return nil, nil, err
		}
	}
	req.Header.Set("User-Agent", c.agent)
	if c.token != "" && sameOrigin(u, c.hub) {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	c.requests.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.failed(ctx, path, err)
	}
	w.body = resp.Body
	a := &answer{Response: resp, at: u, first: resp.Header, body: w}
	if err := busy(path, a); err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, nil, &Error{Path: path, Expected: "no redirect of an upload", Found: clip(redact(resp.Header.Get("Location"))), Hint: "has the repository another name by now?"}
	}
	if resp.StatusCode >= 300 {
		return nil, nil, refused(a)
	}
	raw, err := io.ReadAll(io.LimitReader(w, maxPage))
	if err != nil {
		return nil, nil, &transient{err: &Error{Path: path, Found: "an answer that breaks off", Err: bare(err)}}
	}
	return raw, resp.Header, nil
}
