package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// What servers, files and runs before may do wrong, and the test that has its message:
//
//	short ranges, wrong lengths, ignored ranges        TestMisbehaviour
//	another ETag or size than before                   TestMisbehaviour
//	a byte now and then, nothing at all                TestMisbehaviour
//	429, 5xx, Retry-After, RateLimit                   TestMisbehaviour
//	signed addresses that end                          TestMisbehaviour, TestHub
//	redirects: loops, other schemes, out of TLS        TestRedirects
//	a token to another host                            TestRedirects, TestHub, interop's TestHub
//	private, gated, renamed, not there                 TestRefused
//	uploads: all of this, and files that do not arrive TestDestinationFaults, TestPush
//	names that lead out, in lists and in an index      TestHostileList, FuzzHub; checkpoint's TestOpenErrors, TestReadFile
//	links, pipes and what else is no file              checkpoint's TestSideFilesAmiss, TestPipes; archive's TestHostileNames
//	names that some systems take for the same          archive's TestHostileNames, checkpoint's TestFolded
//	archives that expand, are cut or changed           archive's TestDamaged
//	headers and numbers beyond the file                cmd/nf4kit's TestHostileFiles
//	a source or settings that have changed             convert's TestResumeRefuses, TestDifferentSource
//	a flipped bit of the journal, half a weights file  convert's TestResume, TestDeliveredResumed
//	a full disk, a kill, an interrupt                  cmd/nf4kit's TestFullDisk, TestKilled, TestInterruptedLate

// readAll opens a source and reads its first tensor.
func readAll(ctx context.Context, src string, opt Options) error {
	s, err := Open(ctx, src, opt)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Tensors[0].ReadAt(make([]byte, s.Tensors[0].Size()), 0)
	return err
}

// TestMisbehaviour: what servers do wrong is tried again where that may help, and is an error that says what it is where it does not.
func TestMisbehaviour(t *testing.T) {
	dir := sparseModel(t, 20<<20)
	var n atomic.Int64
	serveRange := func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc, header string) {
		r.Header.Set("Range", header)
		serve(w, r)
	}
	// The first request, of the head, is answered well: it is a server that goes wrong later.
	for name, c := range map[string]struct {
		contents func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc)
		want     string // of the error; "" if it is made up for
	}{
		"short ranges": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			var a, b int64
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &a, &b)
			serveRange(w, r, serve, fmt.Sprintf("bytes=%d-%d", a, min(b, a+1_000_000)))
		}, ""},
		"wrong range": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			serveRange(w, r, serve, "bytes=7-100")
		}, `expected bytes 0 to `},
		"longer than asked for": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			var a int64
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &a)
			serveRange(w, r, serve, fmt.Sprintf("bytes=%d-", a))
		}, `6 times in a row`},
		"no ranges": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			r.Header.Del("Range")
			serve(w, r)
		}, "expected a server that gives ranges of files, found one that gives whole files alone"},
		"another ETag": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			serve(etagged{w, fmt.Sprintf(`"%d"`, n.Load())}, r)
		}, "as when it was opened, found"},
		"another size": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/30000000")
			w.WriteHeader(http.StatusPartialContent)
		}, "expected 20971"},
		"range refused": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}, "found fewer"},
		"packed": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.Header().Set("Content-Encoding", "gzip")
			serve(w, r)
		}, "packed by gzip"},
		"empty answers": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.WriteHeader(http.StatusPartialContent)
		}, `an answer of ""`},
		"always busy": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}, "503 Service Unavailable, 6 times in a row"},
		"asks to wait for a day": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}, "the wish to wait 24h0m0s"},
		"a rate limit of an hour": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.Header().Set("RateLimit", `"api";r=0;t=3600`)
			w.WriteHeader(http.StatusTooManyRequests)
		}, "the wish to wait 1h0m0s"},
		"busy twice": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if n.Load() < 3 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			serve(w, r)
		}, ""},
		"signed addresses that never work": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.WriteHeader(http.StatusForbidden)
		}, "the signed address has expired"},
		"a byte now and then": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+fmt.Sprintf("/%d", dirFile(t, dir)))
			w.WriteHeader(http.StatusPartialContent)
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte{0})
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		}, "next to nothing"},
		"nothing at all": {func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			<-r.Context().Done()
		}, "next to nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &standin.Hub{Repo: "org/name", Dir: dir}
			h.Contents = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
				if n.Add(1) == 1 {
					serve(w, r)
					return
				}
				c.contents(w, r, serve)
			}
			n.Store(0)
			opt := start(t, h)
			tune := opt.tune
			opt.tune = func(c *client) { tune(c); c.stall = 200 * time.Millisecond }
			err := readAll(t.Context(), "hf://org/name", opt)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%v; want it made up for", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v; want one with %q", err, c.want)
			case c.want != "" && !strings.Contains(err.Error(), "hf://org/name/model-00001-of-00001.safetensors"):
				t.Errorf("error %v names no file", err)
			case err != nil && strings.Contains(err.Error(), "Signature"):
				t.Errorf("error %v tells a signed address", err)
			}
		})
	}
}

func dirFile(t *testing.T, dir string) int64 {
	return dirSize(t, dir+"/model-00001-of-00001.safetensors")
}

// etagged answers with an ETag of its own.
type etagged struct {
	http.ResponseWriter
	etag string
}

func (w etagged) WriteHeader(status int) {
	w.Header().Set("ETag", w.etag)
	w.ResponseWriter.WriteHeader(status)
}

// TestRedirects: they end, lead to http and https alone, never from https to http, and take no token along.
func TestRedirects(t *testing.T) {
	var leaked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer other.Close()
	for name, c := range map[string]struct {
		location, want string
		tls            bool
	}{
		"loop":               {"/again", "more than 10 redirects", false},
		"another scheme":     {"file:///etc/passwd", "expected a redirect to http or https, found file:///etc/passwd", false},
		"ftp":                {"ftp://example.org/x", "expected a redirect to http or https", false},
		"no address":         {"", "a redirect to no address", false},
		"out of TLS":         {other.URL, "expected a redirect to https", true},
		"another host":       {other.URL, "no such model", false},
		"with a password":    {strings.Replace(other.URL, "http://", "http://a:b@", 1), "no such model", false},
		"another port's API": {other.URL + "/api/models/org/name/revision/main", "no such model", false},
	} {
		t.Run(name, func(t *testing.T) {
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer hf_secret" {
					t.Error("the hub's own address without the token")
				}
				w.Header()["Location"] = []string{c.location}
				w.WriteHeader(http.StatusTemporaryRedirect)
			})
			server := httptest.NewServer(handler)
			if c.tls {
				server.Close()
				server = httptest.NewTLSServer(handler)
			}
			defer server.Close()
			opt := optionsOf(t, map[string]string{"HF_ENDPOINT": server.URL, "HF_TOKEN": "hf_secret"})
			tune := opt.tune
			opt.tune = func(cl *client) {
				tune(cl)
				if c.tls {
					cl.http.Transport = server.Client().Transport
				}
			}
			err := readAll(t.Context(), "hf://org/name", opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q", err, c.want)
			}
		})
	}
	if leaked.Load() > 0 {
		t.Error("the token went to another host")
	}
}

// TestRefused: what a hub refuses is explained.
func TestRefused(t *testing.T) {
	dir := writeModel(t, 1, 64)
	for name, c := range map[string]struct {
		hub        *standin.Hub
		src, token string
		want, hint string
	}{
		"private":       {&standin.Hub{Token: "hf_a"}, "hf://org/name", "", "no such model, or a private one", "set HF_TOKEN"},
		"wrong token":   {&standin.Hub{Token: "hf_a"}, "hf://org/name", "hf_b", "a token that the hub does not know", "make another"},
		"gated":         {&standin.Hub{Gated: true}, "hf://org/name", "", "a gated model", "ask for access at"},
		"gated for us":  {&standin.Hub{Gated: true, Token: "hf_a"}, "hf://org/name", "hf_a", "this token has no access", "fine-grained"},
		"another name":  {&standin.Hub{}, "hf://org/other", "", "no such model", "check the name"},
		"as org/name":   {&standin.Hub{}, "org/other", "", "org/other: no such path here, and hf://org/other: no such model", "check the name"},
		"no revision":   {&standin.Hub{}, "hf://org/name@v9", "", "expected the revision v9, found none", "/tree/main"},
		"no folder":     {&standin.Hub{}, "hf://org/name/transformer", "", "expected the folder or file transformer, found none", "/tree/main"},
		"no such file":  {&standin.Hub{}, "hf://org/name/b.safetensors", "", "b.safetensors", ""},
		"a data set":    {&standin.Hub{}, "hf://datasets/org/name", "", "found a repository of datasets", ""},
		"another store": {&standin.Hub{}, "ftp://org/name", "", "expected a local path, or one of hf://", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := c.hub
			h.Repo, h.Dir = "org/name", dir
			stop, err := h.Start()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			err = readAll(t.Context(), c.src, optionsOf(t, map[string]string{"HF_ENDPOINT": h.URL, "HF_TOKEN": c.token}))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want one with %q", err, c.want)
			}
			var e *Error
			if c.hint != "" && (!errors.As(err, &e) || !strings.Contains(e.Hint, c.hint)) {
				t.Errorf("error %v with hint %q; want one with %q", err, e.Hint, c.hint)
			}
		})
	}
}

// TestCanceled: the end of the context ends a read that waits.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	h := &standin.Hub{Repo: "org/name", Dir: sparseModel(t, 20<<20)}
	h.Contents = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
		if n.Add(1) > 1 {
			cancel()
			<-r.Context().Done()
			return
		}
		serve(w, r)
	}
	if err := readAll(ctx, "hf://org/name", start(t, h)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
}

// TestCache: files of a hub cache are read from there, and all of them without the hub.
func TestCache(t *testing.T) {
	dir := writeModel(t, 2, 1<<20)
	h := &standin.Hub{Repo: "org/name", Dir: dir}
	stop, err := h.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	cache := t.TempDir()
	env := map[string]string{"HF_ENDPOINT": h.URL, "HF_HUB_CACHE": cache}
	snapshot := "models--org--name/snapshots/" + h.Commit()
	put := func(name string, cut int) {
		data := read(t, dir, name)
		write(t, cache, snapshot+"/"+name, data[:len(data)-cut])
	}
	put("model-00001-of-00002.safetensors", 0)
	put("model-00002-of-00002.safetensors", 1) // cut short
	var told []string
	opt := optionsOf(t, env)
	opt.Told = func(text string) { told = append(told, text) }
	src, err := Open(t.Context(), "hf://org/name", opt)
	if err != nil {
		t.Fatal(err)
	}
	want, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	sameTensors(t, want, src)
	src.Close()
	if !strings.Contains(strings.Join(told, ""), ", 1 of them from "+cache) {
		t.Errorf("told %q", told)
	}
	if n := h.Sent.Load(); n > 1<<20+200_000 {
		t.Errorf("%d bytes were sent for one shard of a MiB", n)
	}

	for _, name := range []string{"model-00002-of-00002.safetensors", "model.safetensors.index.json", "config.json"} {
		put(name, 0)
	}
	write(t, cache, "models--org--name/refs/main", h.Commit())
	stop()
	for name, offline := range map[string]string{"the hub is down": "", "HF_HUB_OFFLINE": "1"} {
		env["HF_HUB_OFFLINE"] = offline
		for _, src := range []string{"hf://org/name", "org/name", "hf://org/name@" + h.Commit()} {
			s, err := Open(t.Context(), src, optionsOf(t, env))
			if err != nil {
				t.Errorf("%s, %s: %v", name, src, err)
				continue
			}
			if !s.IsLocal() || s.Commit != h.Commit() || s.Repo != "org/name" {
				t.Errorf("%s, %s: opened as %s %s", name, src, s.Repo, s.Commit)
			}
			s.Close()
		}
		if err := readAll(t.Context(), "hf://org/other", optionsOf(t, env)); err == nil || !strings.Contains(err.Error(), "hf://org/other: no ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestSite: a directory and a file of a web server that lists nothing.
func TestSite(t *testing.T) {
	dir := writeModel(t, 2, 5<<20, 4096)
	var hidden atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "sig=1" || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if hidden.Load() && strings.HasPrefix(r.URL.Path, "/models/x/model-00002") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		http.StripPrefix("/models/x/", http.FileServer(http.Dir(dir))).ServeHTTP(w, r)
	}))
	defer server.Close()
	opt := optionsOf(t, map[string]string{"HF_TOKEN": "hf_secret"})
	want, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, at := range []string{"/models/x?sig=1", "/models/x/?sig=1"} {
		src, err := Open(t.Context(), server.URL+at, opt)
		if err != nil {
			t.Fatal(err)
		}
		sameTensors(t, want, src)
		if sides, _, err := src.SideFiles(); err != nil || len(sides) != 1 || sides[0].Rel != "tokenizer.json" {
			t.Errorf("side files %v, %v", sides, err)
		}
		src.Close()
	}
	for at, want := range map[string]string{
		"/models/x/model-00001-of-00002.safetensors?sig=1": "", // nobody says that it is a shard
		"/models/x/model.safetensors?sig=1":                "no such file",
		"/models/y?sig=1":                                  "expected a model's config.json and weights below the address",
		"/models/x":                                        "403 Forbidden",
	} {
		err := readAll(t.Context(), server.URL+at, opt)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v; want %q", at, err, want)
		}
	}
	hidden.Store(true)
	if err := readAll(t.Context(), server.URL+"/models/x?sig=1", opt); err == nil || !strings.Contains(err.Error(), "model-00002-of-00002.safetensors missing") {
		t.Errorf("error %v of a missing shard", err)
	}
	u, _ := url.Parse(server.URL)
	if err := readAll(t.Context(), "http://user:pw@"+u.Host+"/models/y?sig=1", opt); err == nil || strings.Contains(err.Error(), "pw") || strings.Contains(err.Error(), "sig") {
		t.Errorf("error %v tells secrets", err)
	}
}
