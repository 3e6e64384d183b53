package remote

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func read(t testing.TB, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestParse(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	for src, want := range map[string]*Location{
		"hf://org/name":                                      {Scheme: "hf", Repo: "org/name"},
		"HF://org/name/":                                     {Scheme: "hf", Repo: "org/name"},
		"hf://gpt2":                                          {Scheme: "hf", Repo: "gpt2"},
		"hf://gpt2@main/onnx":                                {Scheme: "hf", Repo: "gpt2", Revision: "main", Path: "onnx"},
		"hf://org/name@" + commit + "/a/b":                   {Scheme: "hf", Repo: "org/name", Revision: commit, Path: "a/b"},
		"hf://org/name@refs%2Fpr%2F1":                        {Scheme: "hf", Repo: "org/name", Revision: "refs/pr/1"},
		"hf://models/org/name":                               {Scheme: "hf", Repo: "org/name"},
		"https://huggingface.co/org/name":                    {Scheme: "hf", Repo: "org/name"},
		"https://hf.co/org/name/tree/main":                   {Scheme: "hf", Repo: "org/name", Revision: "main"},
		"https://huggingface.co/gpt2/tree/main/x":            {Scheme: "hf", Repo: "gpt2", Revision: "main", Path: "x"},
		"https://huggingface.co/a/b/blob/v1/x.safetensors":   {Scheme: "hf", Repo: "a/b", Revision: "v1", Path: "x.safetensors"},
		"https://www.huggingface.co/a/b/tree/refs/pr/1/x":    {Scheme: "hf", Repo: "a/b", Revision: "refs/pr/1", Path: "x"},
		"https://mirror.example/hub/a/b/resolve/main/x.json": {Scheme: "hf", Repo: "a/b", Revision: "main", Path: "x.json"},
		"file:///a/b":                                        {Scheme: "file", Path: "/a/b"},
		"a/b":                                                nil,
		"/a/b":                                               nil,
		`C:\models`:                                          nil,
		"a://":                                               nil,
	} {
		got, err := Parse(src, "https://mirror.example/hub")
		if src == "a://" {
			if err == nil {
				t.Errorf("%s: no error", src)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", src, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", src, diff)
		}
	}
	for _, src := range []string{"hf://", "hf:///", "hf://-a/b", "hf://a/b@", "hf://a/b@../c", "hf://a/b/../c", "hf://a/b//c", "hf://a/b?x",
		"hf://a/b\n", "hf://spaces/a/b", "https://", "file://host/a", "https://huggingface.co/datasets/a/b", "https://huggingface.co/a/b/tree/main/../c",
		"s3+x://a", "hf://a--b/c", "hf://" + strings.Repeat("a", 5000)} {
		if l, err := Parse(src, DefaultEndpoint); err == nil {
			t.Errorf("%q: parsed as %v", src, l)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"hf://org/name@main/a", "https://huggingface.co/a/b/tree/main", "https://u:p@h/x?sig=1", "file:///a", "a/b", "hf://a/b@refs%2Fpr%2F1", "https://[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		l, err := Parse(src, DefaultEndpoint)
		if err != nil || l == nil || l.Scheme != "hf" {
			return
		}
		// A location of a hub parses again from what it is shown as, and stays below the repository.
		again, err := Parse(l.String(), DefaultEndpoint)
		if err != nil {
			t.Fatalf("%q is shown as %q, which is no source: %v", src, l, err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Errorf("%q is shown as %q (-want +got):\n%s", src, l, diff)
		}
		h := hub{env: environment{endpoint: DefaultEndpoint}, loc: l, commit: strings.Repeat("a", 40)}
		if u := h.address(l.Repo, "resolve", h.commit, l.Path); u == nil || strings.Contains(u.Path, "..") && strings.Contains(u.Path, "/../") || u.RawQuery != "" || u.Host != "huggingface.co" {
			t.Errorf("%q is at %v", src, u)
		}
	})
}

func FuzzHub(f *testing.F) {
	f.Add([]byte(`{"sha":"0123456789012345678901234567890123456789"}`))
	f.Add([]byte(`[{"type":"file","path":"a/b","size":1,"oid":"x","lfs":{"oid":"y","size":5}},{"type":"directory","path":"a"}]`))
	f.Add([]byte(`[{"type":"file","path":"../b","size":-1}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if commit, err := parseInfo("hf://a/b", raw); err == nil && !commitPattern.MatchString(commit) {
			t.Errorf("commit %q", commit)
		}
		list, err := parseList("hf://a/b", raw)
		if err != nil {
			return
		}
		tr := newTree(t.Context(), &client{}, "hf://a/b")
		defer tr.Close()
		for _, file := range list {
			if file.Size < 0 {
				t.Errorf("size %d", file.Size)
			}
			if e := tr.add(file.Path, file.Size, nil, ""); e != nil && (strings.Contains(file.Path, "\\") || !filepath.IsLocal(file.Path)) {
				t.Errorf("%q is listed", file.Path)
			}
		}
		if _, err := tr.ReadDir("."); err != nil {
			t.Error(err)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("bytes 0-9/10", `<https://h/x?cursor=2>; rel="next"`, "120")
	f.Add("bytes 0-9/*", "<>;", "Fri, 31 Dec 1999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, span, link, after string) {
		if first, last, total, ok := parseContentRange(span); ok && (first < 0 || last < first || total >= 0 && last >= total) {
			t.Errorf("%q: %d-%d/%d", span, first, last, total)
		}
		nextPage(link)
		if d := rateLimit(after); d < 0 {
			t.Errorf("%q: %v", after, d)
		}
		if d := retryAfter(after, time.Unix(0, 0)); d < 0 {
			t.Errorf("%q: %v", after, d)
		}
	})
}

// TestEnvironment: the variables are those of huggingface_hub, in its order.
func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "token", "hf_file\n")
	write(t, dir, "home/.cache/huggingface/token", "hf_home")
	write(t, dir, "bad", "two words")
	home := filepath.Join(dir, "home")
	hub := filepath.Join(home, ".cache/huggingface/hub")
	for name, c := range map[string]struct {
		env  map[string]string
		want environment
	}{
		"none":        {map[string]string{}, environment{DefaultEndpoint, hub, "hf_home", false}},
		"HF_TOKEN":    {map[string]string{"HF_TOKEN": " hf_env "}, environment{DefaultEndpoint, hub, "hf_env", false}},
		"HF_HOME":     {map[string]string{"HF_HOME": dir}, environment{DefaultEndpoint, filepath.Join(dir, "hub"), "hf_file", false}},
		"token path":  {map[string]string{"HF_TOKEN_PATH": dir + "/bad"}, environment{DefaultEndpoint, hub, "", false}},
		"no implicit": {map[string]string{"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, environment{DefaultEndpoint, hub, "", false}},
		"cache":       {map[string]string{"HF_HUB_CACHE": "~/c", "HF_HUB_OFFLINE": "yes"}, environment{DefaultEndpoint, home + "/c", "hf_home", true}},
		"endpoint":    {map[string]string{"HF_ENDPOINT": "https://h/x/", "XDG_CACHE_HOME": dir}, environment{"https://h/x", filepath.Join(dir, "huggingface/hub"), "", false}},
	} {
		t.Run(name, func(t *testing.T) {
			c.env["HOME"] = home
			got := environmentOf(func(name string) string { return c.env[name] })
			if got != c.want {
				t.Errorf("%+v; want %+v", got, c.want)
			}
		})
	}
}
