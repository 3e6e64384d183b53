package remote

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// A Location is what a SRC that is no local path names.
type Location struct {
	Scheme string // hf, https, http, file, s3, gs or azblob

	// Of hf: a repository of models on a hub, and what of it.
	Repo     string // org/name, or name
	Revision string // a branch, a tag or a commit; "" is the main branch
	Path     string // of hf: a folder or file below the root, "" for the root; of file: the local path

	URL *url.URL // of https, http and object stores
}

var (
	repoName = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?$`)
	scheme   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
)

// maxLocation bounds what is parsed as the name of a source.
const maxLocation = 4096

// Parse tells what src names; nil without an error is a local path. Pages and files of a hub at endpoint, and of huggingface.co,
// are what they are of: https://huggingface.co/org/name is hf://org/name.
func Parse(src, endpoint string) (*Location, error) {
	i := strings.Index(src, "://")
	if i < 0 || !scheme.MatchString(src) {
		return nil, nil
	}
	if len(src) > maxLocation {
		return nil, &Error{Path: clip(src), Expected: fmt.Sprintf("an address of at most %d bytes", maxLocation), Found: fmt.Sprint(len(src))}
	}
	switch s := strings.ToLower(src[:i]); s {
	case "hf":
		return parseHub(src, src[i+len("://"):])
	case "https", "http", "file", "s3", "gs", "azblob":
		u, err := url.Parse(src)
		if err != nil {
			return nil, &Error{Path: clip(redact(src)), Found: "no address that can be read"}
		}
		return parseURL(src, s, u, endpoint)
	}
	return nil, &Error{Path: clip(redact(src)), Expected: "a local path, or one of hf://, https://, http://, file://, s3://, gs:// and azblob://",
		Found: clip(src[:i]) + "://"}
}

// redact takes out of an address what must not be shown: passwords, and the signature that the query of a signed one is.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		s, _, _ = strings.Cut(s, "?")
		if i, j := strings.Index(s, "://"), strings.LastIndexByte(s, '@'); i >= 0 && j > i {
			s = s[:i+3] + s[j+1:]
		}
		return s
	}
	return shown(u)
}

// shown is redact of an address that was parsed.
func shown(u *url.URL) string {
	v := *u
	v.User, v.RawQuery, v.ForceQuery, v.Fragment, v.RawFragment = nil, "", false, "", ""
	return v.String()
}

// parseHub parses org/name[@revision][/folder].
func parseHub(src, rest string) (*Location, error) {
	bad := func(found string) (*Location, error) {
		return nil, &Error{Path: clip(src), Expected: "hf://org/name[@revision][/folder]", Found: found}
	}
	if strings.ContainsAny(rest, "?#\\") || strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("characters that no repository has")
	}
	l := &Location{Scheme: "hf"}
	parts := strings.Split(strings.TrimRight(rest, "/"), "/")
	for _, kind := range []string{"datasets", "spaces"} {
		if parts[0] == kind && len(parts) > 1 {
			return bad("a repository of " + kind)
		}
	}
	if parts[0] == "models" && len(parts) > 2 {
		parts = parts[1:]
	}
	n := 2
	if strings.Contains(parts[0], "@") || len(parts) == 1 {
		n = 1
	}
	name := strings.Join(parts[:n], "/")
	name, revision, pinned := strings.Cut(name, "@")
	if pinned {
		// A branch may have slashes in it, escaped as huggingface_hub's own paths have them.
		if r, err := url.PathUnescape(revision); err == nil {
			revision = r
		}
		if revision == "" || strings.ContainsAny(revision, "\x00\r\n") || path.Clean("/"+revision) != "/"+revision {
			return bad("no revision after @")
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if !repoName.MatchString(part) || strings.Contains(part, "..") || strings.Contains(part, "--") {
			return bad(fmt.Sprintf("the repository %q", clip(name)))
		}
	}
	l.Repo, l.Revision = name, revision
	folder := strings.Join(parts[n:], "/")
	if folder != "" && path.Clean("/"+folder) != "/"+folder {
		return bad(fmt.Sprintf("the folder %q", clip(folder)))
	}
	l.Path = folder
	return l, nil
}

func parseURL(src, s string, u *url.URL, endpoint string) (*Location, error) {
	switch {
	case s == "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, &Error{Path: clip(src), Expected: "file:///path", Found: "another host or no path"}
		}
		return &Location{Scheme: s, Path: u.Path}, nil
	case u.Host == "":
		return nil, &Error{Path: clip(redact(src)), Expected: "an address with a host", Found: "none"}
	case s == "http" || s == "https":
		if l, err := parsePage(u, endpoint); l != nil || err != nil {
			return l, err
		}
	}
	return &Location{Scheme: s, URL: u}, nil
}

// parsePage makes a location of a page of a model on a hub: org/name[/(tree|blob|resolve)/revision[/path]]. It is nil for
// other addresses.
func parsePage(u *url.URL, endpoint string) (*Location, error) {
	e, err := url.Parse(endpoint)
	if err != nil {
		return nil, nil
	}
	base := ""
	switch host := strings.TrimPrefix(strings.ToLower(u.Host), "www."); {
	case u.Scheme == e.Scheme && strings.EqualFold(u.Host, e.Host) && strings.HasPrefix(u.Path, strings.TrimSuffix(e.Path, "/")+"/"):
		base = strings.TrimSuffix(e.Path, "/")
	case host == "huggingface.co" || host == "hf.co":
	default:
		return nil, nil
	}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(u.Path, base), "/"), "/")
	if parts[0] == "" || parts[0] == "api" {
		return nil, nil
	}
	at := len(parts)
	for i, p := range parts {
		if i > 0 && i <= 2 && (p == "tree" || p == "blob" || p == "resolve") {
			at = i
			break
		}
	}
	rest, revision, folder := strings.Join(parts[:at], "/"), "", ""
	if at+1 < len(parts) {
		revision, folder = parts[at+1], strings.Join(parts[at+2:], "/")
	}
	if at > 2 {
		return nil, &Error{Path: clip(shown(u)), Expected: "the page of a model, as https://huggingface.co/org/name", Found: "another page"}
	}
	// A revision with slashes in it comes escaped, or not at all: refs/pr/1 is what pages of pull requests have.
	if revision == "refs" && strings.Count(folder, "/") >= 1 {
		kind, rest, _ := strings.Cut(folder, "/")
		name, below, _ := strings.Cut(rest, "/")
		revision, folder = revision+"/"+kind+"/"+name, below
	}
	l, err := parseHub(shown(u), rest)
	if err != nil {
		return nil, err
	}
	if folder != "" && path.Clean("/"+folder) != "/"+folder {
		return nil, &Error{Path: clip(shown(u)), Expected: "a folder of a model", Found: fmt.Sprintf("%q", clip(folder))}
	}
	l.Revision, l.Path = revision, folder
	return l, nil
}

// String is the location as a user may give it.
func (l *Location) String() string {
	switch l.Scheme {
	case "hf":
		s := "hf://" + l.Repo
		if l.Revision != "" {
			s += "@" + url.PathEscape(l.Revision)
		}
		if l.Path != "" {
			s += "/" + l.Path
		}
		return s
	case "file":
		return "file://" + l.Path
	}
	return shown(l.URL)
}

// branch is the revision to ask for.
func (l *Location) branch() string { return cmp.Or(l.Revision, "main") }
