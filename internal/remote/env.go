package remote

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
)

// environment is what huggingface_hub (constants.py) reads from its variables.
type environment struct {
	endpoint string // without a slash at the end
	cache    string // the directory of hub caches
	token    string
	offline  bool
}

// DefaultEndpoint is the hub that hf:// means where HF_ENDPOINT names none.
const DefaultEndpoint = "https://huggingface.co"

func environmentOf(getenv func(string) string) environment {
	env := func(name string) string { return strings.TrimSpace(getenv(name)) }
	home, _ := os.UserHomeDir() // without one there is no cache and no token file
	if h := env("HOME"); h != "" {
		home = h
	}
	expand := func(p string) string {
		p = os.Expand(p, getenv)
		if p == "~" || strings.HasPrefix(p, "~/") {
			p = home + p[1:]
		}
		return p
	}
	hfHome := expand(cmp.Or(env("HF_HOME"), filepath.Join(cmp.Or(env("XDG_CACHE_HOME"), filepath.Join(home, ".cache")), "huggingface")))
	e := environment{
		endpoint: strings.TrimRight(cmp.Or(env("HF_ENDPOINT"), DefaultEndpoint), "/"),
		cache:    expand(cmp.Or(env("HF_HUB_CACHE"), env("HUGGINGFACE_HUB_CACHE"), filepath.Join(hfHome, "hub"))),
		token:    cmp.Or(env("HF_TOKEN"), env("HUGGING_FACE_HUB_TOKEN")),
		offline:  isTrue(env("HF_HUB_OFFLINE")) || isTrue(env("TRANSFORMERS_OFFLINE")),
	}
	if e.token == "" && !isTrue(env("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		e.token = readToken(expand(cmp.Or(env("HF_TOKEN_PATH"), filepath.Join(hfHome, "token"))))
	}
	return e
}

// maxToken bounds a token; those of huggingface.co have 37 characters.
const maxToken = 4096

// readToken is what a token file holds, "" if there is none or it holds something else.
func readToken(file string) string {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Size() > maxToken {
		return ""
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	token := strings.TrimSpace(string(raw))
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return token
}

func isTrue(s string) bool {
	switch strings.ToUpper(s) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}
