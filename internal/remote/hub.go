package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

const (
	maxInfo  = 64 << 20 // an answer about a repository: it lists every file of it
	maxPage  = 16 << 20 // a page of the list of files
	maxPages = 200
	maxFiles = 100_000
)

// A hub is a repository of models as the HTTP protocol of huggingface.co shows it (huggingface_hub, hf_api.py and file_download.py).
type hub struct {
	c    *client
	env  environment
	loc  *Location
	told func(string)

	commit string
}

// openHub opens a repository, or a folder or file of it.
func openHub(ctx context.Context, c *client, env environment, loc *Location, told func(string)) (*checkpoint.Source, error) {
	h := &hub{c: c, env: env, loc: loc, told: told}
	if env.offline {
		return h.openCached(&Error{Path: loc.String(), Found: "no download allowed, by HF_HUB_OFFLINE", unseen: true})
	}
	if err := h.pin(ctx); err != nil {
		var e *Error
		if errors.As(err, &e) && (e.unseen || e.status >= http.StatusInternalServerError) {
			return h.openCached(e)
		}
		return nil, err
	}
	return h.open(ctx)
}

// path names a file, or "" the whole, in messages.
func (h *hub) path() string { return h.loc.String() }

// address is that of a file or of a question, of parts that are escaped here.
func (h *hub) address(parts ...string) *url.URL {
	for i, p := range parts {
		parts[i] = escaped(p)
	}
	u, _ := url.Parse(h.env.endpoint + "/" + strings.Join(parts, "/")) // the endpoint was parsed before, and the rest is escaped
	return u
}

// escaped escapes a path but for its slashes.
func escaped(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// revision is a revision as one part of a path: a branch may have slashes in it.
func (h *hub) revision(rev string) string { return url.PathEscape(rev) }

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// pin finds the commit that the revision stands for.
func (h *hub) pin(ctx context.Context) error {
	u, _ := url.Parse(h.env.endpoint + "/api/models/" + escaped(h.loc.Repo) + "/revision/" + h.revision(h.loc.branch()))
	raw, _, err := h.c.fetchAll(ctx, h.path(), u, maxInfo, h.refused)
	if err != nil {
		return err
	}
	if h.commit, err = parseInfo(h.path(), raw); err != nil {
		return err
	}
	return nil
}

// parseInfo reads the commit out of what a hub tells of a repository.
func parseInfo(path string, raw []byte) (commit string, err error) {
	var info struct {
		SHA string `json:"sha"`
	}
	if err := json.Unmarshal(raw, &info); err != nil {
		return "", &Error{Path: path, Expected: "JSON about the repository", Found: "another answer", Hint: "is HF_ENDPOINT a hub of models?"}
	}
	if !commitPattern.MatchString(info.SHA) {
		return "", &Error{Path: path, Expected: "a commit of 40 hexadecimal digits", Found: fmt.Sprintf("%q", clip(info.SHA)), Hint: "is HF_ENDPOINT a hub of models?"}
	}
	return info.SHA, nil
}

// A listed file is one of a repository.
type listed struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	OID  string `json:"oid"`
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	} `json:"lfs"`
}

// parseList reads a page of the list of files.
func parseList(path string, raw []byte) ([]listed, error) {
	var list []listed
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, &Error{Path: path, Expected: "a list of files", Found: "another answer", Hint: "is HF_ENDPOINT a hub of models?"}
	}
	files := list[:0]
	for _, f := range list {
		if f.LFS != nil {
			f.Size, f.OID = f.LFS.Size, f.LFS.OID
		}
		switch {
		case f.Type != "file":
		case f.Size < 0 || f.Size > 1<<50:
			return nil, &Error{Path: path, Expected: "the size of " + clip(f.Path), Found: fmt.Sprint(f.Size)}
		default:
			files = append(files, f)
		}
	}
	return files, nil
}

// list lists the files of a folder and below it.
func (h *hub) list(ctx context.Context, folder string) ([]listed, error) {
	u := h.address("api/models", h.loc.Repo, "tree", h.commit)
	if folder != "" {
		u = h.address("api/models", h.loc.Repo, "tree", h.commit, folder)
	}
	u.RawQuery = "recursive=true&expand=false"
	var all []listed
	for range maxPages {
		raw, header, err := h.c.fetchAll(ctx, h.path(), u, maxPage, h.refused)
		if err != nil {
			return nil, err
		}
		page, err := parseList(h.path(), raw)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		next := nextPage(header.Get("Link"))
		if next == "" {
			return all, nil
		}
		if len(all) > maxFiles {
			break
		}
		v, err := u.Parse(next)
		if err != nil || !sameOrigin(v, h.c.hub) {
			return nil, &Error{Path: h.path(), Expected: "the next page of the list at the hub", Found: clip(redact(next))}
		}
		u = v
	}
	return nil, &Error{Path: h.path(), Expected: fmt.Sprintf("at most %d files", maxFiles), Found: "more", Hint: "give a folder of it: " + h.path() + "/FOLDER"}
}

// nextPage is the address of rel="next" in a Link header (RFC 8288), "" if there is none.
func nextPage(link string) string {
	for part := range strings.SplitSeq(link, ",") {
		target, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.HasPrefix(target, "<") && strings.HasSuffix(target, ">") && strings.Contains(strings.ReplaceAll(params, " ", ""), `rel="next"`) {
			return target[1 : len(target)-1]
		}
	}
	return ""
}

// open opens what the hub has of the commit; files that the cache has too come from there.
func (h *hub) open(ctx context.Context) (*checkpoint.Source, error) {
	folder, file := h.loc.Path, ""
	if isFile(folder) {
		folder, file = strings.TrimSuffix(path.Dir(folder), "."), path.Base(folder)
	}
	files, err := h.list(ctx, folder)
	if err != nil {
		return nil, err
	}
	top := *h.loc
	top.Path = folder
	t := newTree(ctx, h.c, top.String())
	snapshot := h.snapshot(h.commit)
	cached := 0
	for _, f := range files {
		name := f.Path
		if folder != "" {
			var below bool
			if name, below = strings.CutPrefix(name, folder+"/"); !below {
				continue
			}
		}
		local := ""
		if p := filepath.Join(snapshot, filepath.FromSlash(f.Path)); filepath.IsLocal(filepath.FromSlash(f.Path)) && isCached(p, f.Size) {
			local = p
			cached++
		}
		u := h.address(h.loc.Repo, "resolve", h.commit, f.Path)
		t.add(name, f.Size, &object{c: h.c, path: t.top + "/" + name, at: u, size: f.Size, oid: f.OID, refused: h.refused}, local)
	}
	s, err := t.source(file)
	if err != nil {
		return nil, err
	}
	s.Repo, s.Commit = h.loc.Repo, h.commit
	text := fmt.Sprintf("%s: commit %s, %d files", h.path(), h.commit, len(t.files))
	if cached > 0 {
		text += fmt.Sprintf(", %d of them from %s", cached, snapshot)
	}
	h.told(text)
	return s, nil
}

// isFile reports whether the last part of a path is a file's by its name.
func isFile(p string) bool {
	switch strings.ToLower(path.Ext(p)) {
	case ".safetensors", ".json", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".pkl", ".h5", ".zst", ".tzst":
		return true
	}
	return false
}

// isCached reports whether the cache has a file whole: huggingface_hub links it into the snapshot when it is.
func isCached(p string, size int64) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

// repository is the directory of the repository in the cache.
func (h *hub) repository() string {
	return filepath.Join(h.env.cache, "models--"+strings.ReplaceAll(h.loc.Repo, "/", "--"))
}

func (h *hub) snapshot(commit string) string {
	return filepath.Join(h.repository(), "snapshots", commit)
}

// openCached opens the snapshot of the revision, where the hub cannot be asked.
func (h *hub) openCached(why *Error) (*checkpoint.Source, error) {
	commit := h.loc.branch()
	if !commitPattern.MatchString(commit) {
		ref := filepath.Join(h.repository(), "refs", filepath.FromSlash(commit))
		raw, err := checkpoint.ReadRegular(ref, 256)
		if err != nil {
			return nil, h.notCached(why)
		}
		if commit = strings.TrimSpace(string(raw)); !commitPattern.MatchString(commit) {
			return nil, &checkpoint.InputError{File: ref, Expected: "a commit", Found: fmt.Sprintf("%q", clip(commit))}
		}
	}
	dir := filepath.Join(h.snapshot(commit), filepath.FromSlash(h.loc.Path))
	if _, err := os.Stat(dir); err != nil {
		return nil, h.notCached(why)
	}
	s, err := openLocal(dir)
	if err != nil {
		return nil, err
	}
	s.Repo, s.Commit = h.loc.Repo, commit
	h.told(fmt.Sprintf("%s; from the cache, %s", why.Error(), dir))
	return s, nil
}

func (h *hub) notCached(why *Error) error {
	e := *why
	e.Hint = cmp.Or(e.Hint, "unset HF_HUB_OFFLINE") + "; " + h.env.cache + " has no copy of this revision"
	return &e
}

// refused says what a status of the hub means, and what to do about it. The header X-Error-Code tells one 401 from another.
func (h *hub) refused(a *answer) error {
	e := &Error{Path: h.path(), status: a.StatusCode}
	page := h.env.endpoint + "/" + h.loc.Repo
	login := "set HF_TOKEN, or log in with hf auth login"
	if h.c.token != "" {
		login = "is HF_TOKEN, or the token of hf auth login, one that may read it?"
	}
	switch code := a.Header.Get("X-Error-Code"); {
	case code == "GatedRepo":
		e.Found = "a gated model"
		e.Hint = "ask for access at " + page + ", then " + login
		if h.c.token != "" {
			e.Found = "a gated model, to which this token has no access"
			e.Hint = "ask for access at " + page + "; a fine-grained token must be allowed to read gated repositories"
		}
	case code == "RevisionNotFound":
		e.Expected, e.Found, e.Hint = "the revision "+clip(h.loc.branch()), "none of that name", page+"/tree/main lists branches and tags"
	case code == "EntryNotFound" && h.loc.Path != "":
		e.Expected, e.Found, e.Hint = "the folder or file "+clip(h.loc.Path), "none of that name", page+"/tree/"+escaped(h.loc.branch())+" shows what there is"
	case strings.Contains(a.Header.Get("X-Error-Message"), "Invalid credentials"), a.StatusCode == http.StatusUnauthorized && h.c.token != "" && code != "RepoNotFound":
		e.Found, e.Hint = "a token that the hub does not know", "make another at "+h.env.endpoint+"/settings/tokens, or unset HF_TOKEN"
	case code == "RepoNotFound", a.StatusCode == http.StatusNotFound, a.StatusCode == http.StatusUnauthorized:
		e.Found = "no such model, or a private one"
		e.Hint = "check the name at " + page + "; if it is private, " + login
	case a.StatusCode == http.StatusForbidden:
		e.Found = "access forbidden"
		if m := a.Header.Get("X-Error-Message"); m != "" {
			e.Found += ": " + clip(m)
		}
		e.Hint = login
	default:
		e.Found = "the answer " + a.Status
	}
	return e
}
