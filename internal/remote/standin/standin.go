// Package standin is a hub of models for tests: it speaks the protocol of huggingface.co, with a second host for contents, signed
// addresses that end, tokens, and the faults of servers.
package standin

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Hub serves one repository. Its exported fields are set before Start.
type Hub struct {
	Repo  string // org/name
	Dir   string // its files
	Token string // that is asked for, "" if none is
	Gated bool   // the token has no access

	SignedFor int           // requests that a signed address is good for; 0: any number
	FaultEach int           // every so many requests for contents go wrong; 0: none
	Latency   time.Duration // before an answer
	Rate      int           // bytes a second that a connection gets; 0: all that there is

	// Contents, if it is not nil, answers requests for contents in the place of the hub's own server; it may call serve for that.
	Contents func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc)

	Uploads Uploads // what it has been sent

	URL string // of the hub, once it runs

	api, cdn *httptest.Server
	files    []string
	sums     map[string]string // by which contents are told apart

	mu     sync.Mutex
	signed map[string]int // requests that an address has had

	serial   atomic.Int64
	Asked    atomic.Int64 // requests for contents
	Sent     atomic.Int64 // bytes of contents
	Resolved atomic.Int64 // requests of the hub for a file's address
	Leaked   atomic.Int64 // requests of the second host with a token
	inFlight atomic.Int64
	Most     atomic.Int64 // requests for contents at once
}

// Commit is the only commit of the repository.
func (h *Hub) Commit() string {
	sum := sha1.Sum([]byte(h.Repo))
	return hex.EncodeToString(sum[:])
}

// Start serves until stop is called.
func (h *Hub) Start() (stop func(), err error) {
	h.signed, h.sums = map[string]int{}, map[string]string{}
	h.Uploads.Objects, h.Uploads.parts = map[string][]byte{}, map[string][]byte{}
	err = filepath.WalkDir(h.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(h.Dir, p)
		sum := sha256.Sum256([]byte(rel)) // clients take it for what it is; contents would take long
		h.files = append(h.files, filepath.ToSlash(rel))
		h.sums[filepath.ToSlash(rel)] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(h.files)
	// All is there before the first request may come.
	h.cdn, h.api = h.server(h.contents), h.server(h.hub)
	h.URL = "http://" + h.api.Listener.Addr().String()
	h.cdn.Start()
	h.api.Start()
	return func() { h.api.Close(); h.cdn.Close() }, nil
}

type connKey struct{}

func (h *Hub) server(handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	return s
}

func isLFS(name string) bool { return path.Ext(name) == ".safetensors" }

func (h *Hub) etag(name string) string { return `"` + h.sums[name] + `"` }

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", message)
	w.WriteHeader(status)
}

// hub answers what huggingface.co does.
func (h *Hub) hub(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		h.post(w, r)
		return
	}
	p, api := strings.CutPrefix(r.URL.Path, "/api/models/")
	p = strings.TrimPrefix(p, "/")
	rest, ok := strings.CutPrefix(p, h.Repo+"/")
	if p == h.Repo {
		rest, ok = "revision/main", true
	}
	auth := r.Header.Get("Authorization")
	switch {
	case auth != "" && auth != "Bearer "+h.Token:
		refuse(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		return
	case !ok || h.Token != "" && auth == "" && !h.Gated:
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
		return
	case h.Gated && !(api && strings.HasPrefix(rest, "revision/")):
		refuse(w, http.StatusForbidden, "GatedRepo", "Access to model is restricted")
		return
	}
	kind, rest, _ := strings.Cut(rest, "/")
	rev, name, _ := strings.Cut(rest, "/")
	if rev != "main" && rev != h.Commit() {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+rev)
		return
	}
	w.Header().Set("X-Repo-Commit", h.Commit())
	switch {
	case api && kind == "revision":
		type sibling struct {
			Name string `json:"rfilename"`
		}
		var list []sibling
		for _, f := range h.files {
			list = append(list, sibling{f})
		}
		reply(w, map[string]any{"id": h.Repo, "modelId": h.Repo, "sha": h.Commit(), "private": h.Token != "", "siblings": list})
	case api && kind == "tree":
		h.tree(w, r, name)
	case !api && kind == "resolve":
		h.resolve(w, r, name)
	default:
		http.NotFound(w, r)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// perPage is how many files a page of the list has: few, so that there is more than one.
const perPage = 5

func (h *Hub) tree(w http.ResponseWriter, r *http.Request, folder string) {
	var list []map[string]any
	for _, f := range h.files {
		if folder != "" && !strings.HasPrefix(f, folder+"/") {
			continue
		}
		info, err := os.Stat(filepath.Join(h.Dir, f))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		e := map[string]any{"type": "file", "path": f, "size": info.Size(), "oid": h.sums[f][:40]}
		if isLFS(f) {
			e["lfs"] = map[string]any{"oid": h.sums[f], "size": info.Size(), "pointerSize": 134}
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		refuse(w, http.StatusNotFound, "EntryNotFound", "no such folder")
		return
	}
	at, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	at = min(max(at, 0), len(list))
	end := min(at+perPage, len(list))
	if end < len(list) {
		next := *r.URL
		q := next.Query()
		q.Set("cursor", strconv.Itoa(end))
		next.RawQuery = q.Encode()
		w.Header().Set("Link", fmt.Sprintf("<%s%s>; rel=%q", h.URL, next.String(), "next"))
	}
	reply(w, list[at:end])
}

// resolve leads to the contents of large files, and gives small ones.
func (h *Hub) resolve(w http.ResponseWriter, r *http.Request, name string) {
	if !slices.Contains(h.files, name) {
		refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	if !isLFS(name) {
		h.count(r, func() { h.send(w, r, name) })
		return
	}
	h.Resolved.Add(1)
	info, err := os.Stat(filepath.Join(h.Dir, name))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Linked-Etag", h.etag(name))
	w.Header().Set("X-Linked-Size", fmt.Sprint(info.Size()))
	w.Header().Set("Location", fmt.Sprintf("%s/blobs/%s?Signature=%d", h.cdn.URL, (&url.URL{Path: name}).EscapedPath(), h.serial.Add(1)))
	w.WriteHeader(http.StatusFound)
}

// contents is the second host.
func (h *Hub) contents(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		h.Leaked.Add(1)
	}
	if r.Method == http.MethodPut {
		h.put(w, r)
		return
	}
	sig := r.URL.Query().Get("Signature")
	h.mu.Lock()
	h.signed[sig]++
	n := h.signed[sig]
	h.mu.Unlock()
	if sig == "" || h.SignedFor > 0 && n > h.SignedFor {
		http.Error(w, "Request has expired", http.StatusForbidden)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/blobs/")
	serve := func(w http.ResponseWriter, r *http.Request) { h.send(w, r, name) }
	h.count(r, func() {
		if h.Contents != nil {
			h.Contents(w, r, serve)
			return
		}
		serve(w, r)
	})
}

func (h *Hub) count(r *http.Request, f func()) {
	if r.Method != http.MethodHead {
		h.Asked.Add(1)
		h.Most.Store(max(h.Most.Load(), h.inFlight.Add(1)))
		defer h.inFlight.Add(-1)
	}
	f()
}

// send serves a file, with the faults and the pace of the hub.
func (h *Hub) send(w http.ResponseWriter, r *http.Request, name string) {
	time.Sleep(h.Latency)
	f, err := os.Open(filepath.Join(h.Dir, name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("ETag", h.etag(name))
	out := &paced{ResponseWriter: w, h: h, start: time.Now(), left: -1}
	if h.FaultEach > 0 {
		switch n := int(h.Asked.Load()); {
		case n%h.FaultEach != 0:
		case n/h.FaultEach%3 == 0:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case n/h.FaultEach%3 == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		default: // breaks off
			out.left = 10_000
		}
	}
	http.ServeContent(out, r, name, time.Time{}, f)
	if out.left == 0 {
		if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			c.Close()
		}
	}
}

// paced is a writer that counts, keeps to a rate, and may break off.
type paced struct {
	http.ResponseWriter
	h     *Hub
	start time.Time
	sent  int
	left  int // -1: all
}

func (p *paced) Write(b []byte) (int, error) {
	if p.left >= 0 && len(b) > p.left {
		n, _ := p.write(b[:p.left])
		p.left = 0
		if f, ok := p.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		return n, io.ErrShortWrite
	}
	n, err := p.write(b)
	p.sent += n
	if p.h.Rate > 0 {
		time.Sleep(time.Duration(float64(p.sent)/float64(p.h.Rate)*float64(time.Second)) - time.Since(p.start))
	}
	return n, err
}

// write counts what it sends before it does: a client that has all of it must not
// find the count behind.
func (p *paced) write(b []byte) (int, error) {
	p.h.Sent.Add(int64(len(b)))
	n, err := p.ResponseWriter.Write(b)
	p.h.Sent.Add(int64(n - len(b)))
	return n, err
}
