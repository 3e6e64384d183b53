package tokens

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is one of added_tokens.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
}

// addedTokens are found in the text before anything else is done to it, or once it is normalized.
type addedTokens struct {
	plain, normalized matcher
	size              int
}

func newAddedTokens(list []addedToken, m model, normalize normalizer) (a addedTokens, err error) {
	for _, t := range list {
		if t.Content == "" {
			continue
		}
		if id, ok := m.id(t.Content); ok {
			t.ID = id
		}
		if t.ID < 0 || t.ID > maxID {
			return a, fmt.Errorf("token %q has id %d: expected 0 to %d", t.Content, t.ID, maxID)
		}
		a.size = max(a.size, int(t.ID)+1)
		if !t.Normalized {
			a.plain.add(t.Content, t)
			continue
		}
		content := t.Content
		if normalize != nil {
			if content, err = normalize(content); err != nil {
				return a, err
			}
		}
		if content != "" {
			a.normalized.add(content, t)
		}
	}
	return a, nil
}

// A matcher finds the longest of its tokens at the first place where there is one. Its nodes are those of a tree of bytes.
type matcher struct {
	nodes []node
}

type node struct {
	next  map[byte]int
	token *addedToken
}

func (m *matcher) add(content string, t addedToken) {
	if m.nodes == nil {
		m.nodes = []node{{}}
	}
	at := 0
	for i := range len(content) {
		next, ok := m.nodes[at].next[content[i]]
		if !ok {
			next = len(m.nodes)
			m.nodes = append(m.nodes, node{})
			if m.nodes[at].next == nil {
				m.nodes[at].next = map[byte]int{}
			}
			m.nodes[at].next[content[i]] = next
		}
		at = next
	}
	m.nodes[at].token = &t
}

// longest is the longest token that s begins with, nil if there is none.
func (m *matcher) longest(s string) (t *addedToken, n int) {
	at := 0
	for i := range len(s) {
		next, ok := m.nodes[at].next[s[i]]
		if !ok {
			break
		}
		if at = next; m.nodes[at].token != nil {
			t, n = m.nodes[at].token, i+1
		}
	}
	return t, n
}

// A section is text, or the added token id if that is not -1.
type section struct {
	piece
	id int32
}

// cut finds the tokens of m in p. White space beside a token that strips it belongs to the token.
func (m *matcher) cut(p piece) []section {
	s := p.text
	if s == "" {
		return nil
	}
	if m.nodes == nil {
		return []section{{p, -1}}
	}
	var out []section
	from := 0
	text := func(to int) {
		if from < to {
			out = append(out, section{piece{s[from:to], p.start && from == 0}, -1})
		}
	}
	for i := 0; i < len(s); {
		t, n := m.longest(s[i:])
		if t == nil {
			i++
			continue
		}
		start, end := i, i+n
		i = end
		if t.SingleWord && (wordBefore(s[:start]) || wordAfter(s[end:])) {
			continue
		}
		if t.LStrip {
			start = max(from, len(strings.TrimRightFunc(s[:start], unicode.IsSpace)))
		}
		if t.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if start < from { // within what the token before has taken
			start = from
		}
		text(start)
		out = append(out, section{id: t.ID})
		from = max(end, from)
	}
	text(len(s))
	return out
}

func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

func wordBefore(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAfter(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}
