package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// PushOptions are those of Push. The zero value is the default.
type PushOptions struct {
	Options
	Private  bool                       // of a repository that is not there yet
	Message  string                     // of the commit
	Progress func(name string, n int64) // told of n more bytes that are sent, or need not be
}

// Pushed is what Push has done.
type Pushed struct {
	Repo, Commit, URL string
	Files             int
	Sent, Present     int64 // bytes of large files that were sent, and that the hub had
}

// A pushing is one call of Push: the HTTP protocol of huggingface_hub (_commit_api.py and lfs.py), by Git LFS, which the hub
// takes beside Xet.
type pushing struct {
	*hub
	root *os.Root
	opt  PushOptions
	out  *Pushed
}

// pushFile is a file to be uploaded.
type pushFile struct {
	name string // in the repository
	size int64
	lfs  bool
	oid  string // SHA-256 of a large one
}

// Push uploads the files of dir to a repository of a hub, hf://org/name[@branch], in one commit, which creates the repository if it
// is not there. Files that the hub has are not sent again, so that whoever was interrupted begins where he was. Files and
// folders whose names begin with a dot stay behind.
func Push(ctx context.Context, dir, dst string, opt PushOptions) (*Pushed, error) {
	if opt.Getenv == nil {
		opt.Getenv = os.Getenv
	}
	env := environmentOf(opt.Getenv)
	loc, err := Parse(dst, env.endpoint)
	if err != nil {
		return nil, err
	}
	switch {
	case loc == nil || loc.Scheme != "hf" || loc.Path != "" || !strings.Contains(loc.Repo, "/"):
		return nil, &Error{Path: clip(dst), Expected: "hf://org/name[@branch]", Found: "another destination"}
	case env.offline:
		return nil, &Error{Path: dst, Found: "no upload allowed, by HF_HUB_OFFLINE", Hint: "unset HF_HUB_OFFLINE"}
	case env.token == "":
		return nil, &Error{Path: dst, Found: "no token to upload with", Hint: "set HF_TOKEN to one that may write, or log in with hf auth login"}
	}
	c, err := newClient(opt.Agent, env)
	if err != nil {
		return nil, err
	}
	if opt.tune != nil {
		opt.tune(c)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if opt.Progress == nil {
		opt.Progress = func(string, int64) {}
	}
	p := &pushing{hub: &hub{c: c, env: env, loc: loc}, root: root, opt: opt, out: &Pushed{Repo: loc.Repo}}
	files, err := p.files()
	if err != nil {
		return nil, err
	}
	if err := p.create(ctx); err != nil {
		return nil, err
	}
	if err := p.modes(ctx, files); err != nil {
		return nil, err
	}
	for i := range files {
		if files[i].lfs {
			if err := p.large(ctx, &files[i]); err != nil {
				return nil, err
			}
		}
	}
	return p.out, p.commit(ctx, files)
}

// files lists what is uploaded, in the order of names.
func (p *pushing) files() ([]pushFile, error) {
	var files []pushFile
	err := fs.WalkDir(p.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case strings.HasPrefix(d.Name(), ".") && d.IsDir():
			return fs.SkipDir
		case strings.HasPrefix(d.Name(), ".") || d.IsDir():
			return nil
		}
		info, err := p.root.Stat(filepath.FromSlash(name)) // links within the directory are followed
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return &Error{Path: name, Expected: "a regular file", Found: info.Mode().Type().String()}
		}
		files = append(files, pushFile{name: name, size: info.Size()})
		return nil
	})
	p.out.Files = len(files)
	return files, err
}

// api is an address of the hub.
func (p *pushing) api(path string) *url.URL {
	u, _ := url.Parse(p.env.endpoint + path) // the endpoint was parsed before, and paths are escaped
	return u
}

const lfsJSON = "application/vnd.git-lfs+json"

// ask posts v as JSON and decodes the answer into out.
func (p *pushing) ask(ctx context.Context, u *url.URL, mime string, v, out any) error {
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return err
		}
	}
	answer, _, err := p.c.submit(ctx, p.path(), http.MethodPost, u, http.Header{"Content-Type": {mime}, "Accept": {cmp.Or(map[bool]string{true: lfsJSON}[mime == lfsJSON], "application/json")}},
		bytes.NewReader(raw), int64(len(raw)), p.refused)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return &Error{Path: p.path(), Expected: "JSON from " + clip(u.Path), Found: "another answer", Hint: "is HF_ENDPOINT a hub of models?"}
	}
	return nil
}

// create makes the repository, if it is not there.
func (p *pushing) create(ctx context.Context) error {
	org, name, _ := strings.Cut(p.loc.Repo, "/")
	v := map[string]any{"name": name, "organization": org, "type": "model"}
	if p.opt.Private {
		v["private"] = true
	}
	err := p.ask(ctx, p.api("/api/repos/create"), "application/json", v, nil)
	var e *Error
	if errors.As(err, &e) && e.status == http.StatusConflict {
		return nil // it is there
	}
	return err
}

// maxAsked is how many files a question may name.
const maxAsked = 256

// modes asks which files are large ones, by their size and first bytes.
func (p *pushing) modes(ctx context.Context, files []pushFile) error {
	type file struct {
		Path   string `json:"path"`
		Sample string `json:"sample"`
		Size   int64  `json:"size"`
	}
	u := p.api("/api/models/" + escaped(p.loc.Repo) + "/preupload/" + p.revision(p.loc.branch()))
	for part := range slices.Chunk(files, maxAsked) {
		var list []file
		for _, f := range part {
			sample, err := p.first(f)
			if err != nil {
				return err
			}
			list = append(list, file{f.name, base64.StdEncoding.EncodeToString(sample), f.size})
		}
		var answer struct {
			Files []struct {
				Path, UploadMode string
				ShouldIgnore     bool
			}
		}
		if err := p.ask(ctx, u, "application/json", map[string]any{"files": list}, &answer); err != nil {
			return err
		}
		modes := map[string]string{}
		for _, f := range answer.Files {
			modes[f.Path] = f.UploadMode
		}
		for i := range part {
			f := &part[i]
			switch f.lfs = modes[f.name] == "lfs" && f.size > 0; { // an empty one is never stored apart
			case modes[f.name] != "lfs" && modes[f.name] != "regular":
				return &Error{Path: f.name, Expected: "how it is to be uploaded from the hub", Found: fmt.Sprintf("%q", clip(modes[f.name]))}
			case !f.lfs && f.size > maxPage:
				return &Error{Path: f.name, Expected: fmt.Sprintf("at most %d bytes of a file that is no large one", maxPage), Found: fmt.Sprint(f.size)}
			}
		}
	}
	return nil
}

// first are the bytes by which the hub tells text from binary.
func (p *pushing) first(f pushFile) ([]byte, error) {
	in, err := p.root.Open(filepath.FromSlash(f.name))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(io.LimitReader(in, 512))
}

// An action is what a batch of Git LFS says is to be done.
type action struct {
	Href   string         `json:"href"`
	Header map[string]any `json:"header"`
}

// large sends a large file, unless the hub has it. A signed address that ends meanwhile is asked for once more.
func (p *pushing) large(ctx context.Context, f *pushFile) error {
	in, err := p.root.Open(filepath.FromSlash(f.name))
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	if n, err := io.Copy(sum, contextReader{ctx, in}); err != nil || n != f.size {
		return errors.Join(err, fmt.Errorf("read %s: expected %d bytes, found %d", f.name, f.size, n))
	}
	f.oid = hex.EncodeToString(sum.Sum(nil))
	object := map[string]any{"oid": f.oid, "size": f.size}
	for try := 0; ; try++ {
		var answer struct {
			Objects []struct {
				Actions *struct{ Upload, Verify *action }
				Error   *struct{ Message string }
			}
		}
		batch := map[string]any{"operation": "upload", "transfers": []string{"basic", "multipart"}, "objects": []any{object}, "hash_algo": "sha256",
			"ref": map[string]string{"name": p.loc.branch()}}
		if err := p.ask(ctx, p.api("/"+escaped(p.loc.Repo)+".git/info/lfs/objects/batch"), lfsJSON, batch, &answer); err != nil {
			return err
		}
		switch {
		case len(answer.Objects) != 1:
			return &Error{Path: f.name, Expected: "where to upload it", Found: "no such answer"}
		case answer.Objects[0].Error != nil:
			return &Error{Path: f.name, Found: "refused by the hub: " + clip(answer.Objects[0].Error.Message)}
		case answer.Objects[0].Actions == nil || answer.Objects[0].Actions.Upload == nil:
			p.out.Present += f.size
			p.opt.Progress(f.name, f.size)
			return nil
		}
		actions := answer.Objects[0].Actions
		err := p.send(ctx, f, in, actions.Upload)
		var e *Error
		if errors.As(err, &e) && e.status == http.StatusForbidden && try == 0 {
			continue
		}
		if err != nil {
			return err
		}
		p.out.Sent += f.size
		p.opt.Progress(f.name, f.size)
		if actions.Verify == nil {
			return nil
		}
		u, err := p.target(f, actions.Verify.Href)
		if err != nil {
			return err
		}
		return p.ask(ctx, u, lfsJSON, object, nil)
	}
}

// target checks an address that the hub says to upload to.
func (p *pushing) target(f *pushFile, href string) (*url.URL, error) {
	u, err := url.Parse(href)
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || p.c.hub.Scheme != "http") || u.Host == "" {
		return nil, &Error{Path: f.name, Expected: "an address to upload to", Found: clip(redact(href))}
	}
	u.User = nil
	return u, nil
}

// maxParts bounds the parts of a file, as S3 does.
const maxParts = 10_000

// send sends a file, whole or in the parts that the hub says.
func (p *pushing) send(ctx context.Context, f *pushFile, in io.ReaderAt, up *action) error {
	put := func(href string, off, n int64) (etag string, err error) {
		u, err := p.target(f, href)
		if err != nil {
			return "", err
		}
		_, h, err := p.c.submit(ctx, f.name, http.MethodPut, u, nil, io.NewSectionReader(in, off, n), n, func(a *answer) error {
			return &Error{Path: f.name, Found: "the answer " + a.Status + " of " + clip(a.at.Host), status: a.StatusCode, Hint: "run it again: what has arrived is not sent again"}
		})
		return h.Get("ETag"), err
	}
	size, multi := up.Header["chunk_size"]
	if !multi {
		_, err := put(up.Href, 0, f.size)
		return err
	}
	chunk, err := strconv.ParseInt(fmt.Sprint(size), 10, 64)
	if err != nil || chunk <= 0 || (f.size+chunk-1)/chunk > maxParts {
		return &Error{Path: f.name, Expected: "the size of a part", Found: clip(fmt.Sprint(size))}
	}
	type part struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"etag"`
	}
	hrefs := map[int64]string{}
	for k, v := range up.Header {
		if n, err := strconv.ParseInt(k, 10, 32); err == nil {
			hrefs[n] = fmt.Sprint(v)
		}
	}
	var parts []part
	for off := int64(0); off < f.size; off += chunk {
		n := len(parts) + 1
		etag, err := put(hrefs[int64(n)], off, min(chunk, f.size-off))
		if err != nil {
			return err
		}
		if etag == "" {
			return &Error{Path: f.name, Expected: fmt.Sprintf("an ETag of part %d", n), Found: "none"}
		}
		parts = append(parts, part{n, etag})
	}
	u, err := p.target(f, up.Href)
	if err != nil {
		return err
	}
	return p.ask(ctx, u, lfsJSON, map[string]any{"oid": f.oid, "parts": parts}, nil)
}

// commit makes the commit of all files.
func (p *pushing) commit(ctx context.Context, files []pushFile) error {
	var b bytes.Buffer
	line := func(key string, v any) error {
		return json.NewEncoder(&b).Encode(map[string]any{"key": key, "value": v})
	}
	if err := line("header", map[string]string{"summary": cmp.Or(p.opt.Message, "Upload with nf4kit"), "description": ""}); err != nil {
		return err
	}
	for _, f := range files {
		if f.lfs {
			if err := line("lfsFile", map[string]any{"path": f.name, "algo": "sha256", "oid": f.oid, "size": f.size}); err != nil {
				return err
			}
			continue
		}
		raw, err := p.root.ReadFile(filepath.FromSlash(f.name))
		if err != nil {
			return err
		}
		if err := line("file", map[string]string{"content": base64.StdEncoding.EncodeToString(raw), "path": f.name, "encoding": "base64"}); err != nil {
			return err
		}
		if b.Len() > maxInfo {
			return &Error{Path: p.path(), Expected: fmt.Sprintf("at most %d bytes of small files", maxInfo), Found: "more"}
		}
	}
	var answer struct{ CommitOID, CommitURL string }
	u := p.api("/api/models/" + escaped(p.loc.Repo) + "/commit/" + p.revision(p.loc.branch()))
	if err := p.ask(ctx, u, "application/x-ndjson", b.Bytes(), &answer); err != nil {
		return err
	}
	p.out.Commit, p.out.URL = clip(answer.CommitOID), clip(answer.CommitURL)
	return nil
}
