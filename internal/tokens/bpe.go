package tokens

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// bpe is byte-pair encoding: the pair of the lowest rank is joined, the leftmost first, until none is left.
type bpe struct {
	vocab        map[string]int32
	merges       map[pair]merge
	unk          int32 // -1: none
	unkName      string
	prefix       string // of characters within a word
	suffix       string // of the last character
	fuseUnk      bool
	byteFallback bool
	ignoreMerges bool
	bytes        [256]int32 // ids of <0x00> to <0xFF>, -1 where there is none
	largest      int

	mu    sync.Mutex
	cache map[string][]int32
}

type pair struct{ a, b int32 }

type merge struct{ rank, id int32 }

// maxWords is how many words are kept with their ids, and maxWord how long they may be.
const (
	maxWords = 1 << 16
	maxWord  = 64
)

func parseBPE(raw json.RawMessage) (model, error) {
	f, err := decodeAs(raw, struct {
		Vocab        map[string]int32
		Merges       []mergeText
		Dropout      *float64
		Unk          *string `json:"unk_token"`
		Prefix       *string `json:"continuing_subword_prefix"`
		Suffix       *string `json:"end_of_word_suffix"`
		FuseUnk      bool    `json:"fuse_unk"`
		ByteFallback bool    `json:"byte_fallback"`
		IgnoreMerges bool    `json:"ignore_merges"`
	}{})
	if err != nil {
		return nil, err
	}
	if f.Dropout != nil && *f.Dropout > 0 {
		return nil, fmt.Errorf("dropout %v is not supported: ids would be random", *f.Dropout)
	}
	m := &bpe{vocab: f.Vocab, merges: make(map[pair]merge, len(f.Merges)), unk: -1, fuseUnk: f.FuseUnk, byteFallback: f.ByteFallback,
		ignoreMerges: f.IgnoreMerges, cache: map[string][]int32{}}
	if m.largest, err = checkIDs(maps.All(m.vocab)); err != nil {
		return nil, err
	}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	if f.Suffix != nil {
		m.suffix = *f.Suffix
	}
	if f.Unk != nil {
		m.unkName = *f.Unk
		if id, ok := m.vocab[m.unkName]; ok {
			m.unk = id
		}
	}
	for b := range m.bytes {
		m.bytes[b] = -1
		if id, ok := m.vocab[fmt.Sprintf("<0x%02X>", b)]; ok {
			m.bytes[b] = id
		}
	}
	for rank, t := range f.Merges {
		joined := t.a + strings.TrimPrefix(t.b, m.prefix)
		a, ok1 := m.vocab[t.a]
		b, ok2 := m.vocab[t.b]
		id, ok3 := m.vocab[joined]
		if !ok1 || !ok2 || !ok3 {
			return nil, fmt.Errorf("merge %d of %q and %q: not all in the vocabulary", rank, t.a, t.b)
		}
		m.merges[pair{a, b}] = merge{int32(rank), id}
	}
	return m, nil
}

// mergeText is a merge as a list of two, or as text with a space between, as older files have it.
type mergeText struct{ a, b string }

func (m *mergeText) UnmarshalJSON(raw []byte) error {
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return err
		}
		list = strings.Split(text, " ")
	}
	if len(list) != 2 {
		return fmt.Errorf("merge %s: expected two tokens", raw)
	}
	m.a, m.b = list[0], list[1]
	return nil
}

func (m *bpe) id(token string) (int32, bool) {
	id, ok := m.vocab[token]
	return id, ok
}

func (m *bpe) size() int { return m.largest + 1 }

func (m *bpe) encode(text string, ids []int32) ([]int32, error) {
	if m.ignoreMerges {
		if id, ok := m.vocab[text]; ok {
			return append(ids, id), nil
		}
	}
	if len(text) > maxWord {
		return m.word(text, ids)
	}
	m.mu.Lock()
	known, ok := m.cache[text]
	m.mu.Unlock()
	if ok {
		return append(ids, known...), nil
	}
	from := len(ids)
	ids, err := m.word(text, ids)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.cache) < maxWords {
		m.cache[strings.Clone(text)] = slices.Clone(ids[from:])
	}
	return ids, nil
}

// word appends the ids of a word.
func (m *bpe) word(text string, ids []int32) ([]int32, error) {
	w := word{merges: m.merges}
	if err := m.characters(text, &w); err != nil {
		return nil, err
	}
	w.join()
	for i := range w.symbols {
		if w.symbols[i].id >= 0 {
			ids = append(ids, w.symbols[i].id)
		}
	}
	return ids, nil
}

// characters are the symbols to begin with.
func (m *bpe) characters(text string, w *word) error {
	unk := false // one is to be written
	flush := func() {
		if unk {
			w.add(m.unk)
		}
		unk = false
	}
	for i, r := range text {
		n := len(string(r))
		s := text[i : i+n]
		if i > 0 {
			s = m.prefix + s
		}
		if i+n == len(text) {
			s += m.suffix
		}
		if id, ok := m.vocab[s]; ok {
			flush()
			w.add(id)
			continue
		}
		if m.byteFallback && m.fallback(s, w) {
			continue // what is unknown before is written after, as by the original
		}
		if m.unkName == "" {
			continue
		}
		if m.unk < 0 {
			return fmt.Errorf("%q is not in the vocabulary, and neither is unk_token %q", s, m.unkName)
		}
		if !m.fuseUnk {
			flush()
		}
		unk = true
	}
	flush()
	return nil
}

// fallback writes the bytes of s, if there are tokens for all of them.
func (m *bpe) fallback(s string, w *word) bool {
	for i := range len(s) {
		if m.bytes[s[i]] < 0 {
			return false
		}
	}
	for i := range len(s) {
		w.add(m.bytes[s[i]])
	}
	return true
}

// A word is a list of symbols, those that were joined to one before having id -1.
type word struct {
	merges  map[pair]merge
	symbols []symbol
	queue   candidates
}

type symbol struct{ id, prev, next int32 }

// A candidate is a pair that can be joined, if it is still there.
type candidate struct{ rank, at, id int32 }

type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(i, j int) bool {
	return c[i].rank < c[j].rank || c[i].rank == c[j].rank && c[i].at < c[j].at
}
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)   { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	x := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return x
}

func (w *word) add(id int32) {
	n := int32(len(w.symbols))
	if n > 0 {
		w.symbols[n-1].next = n
	}
	w.symbols = append(w.symbols, symbol{id, n - 1, -1})
}

func (w *word) join() {
	for i := range w.symbols[:max(0, len(w.symbols)-1)] {
		if m, ok := w.merges[pair{w.symbols[i].id, w.symbols[i+1].id}]; ok {
			w.queue = append(w.queue, candidate{m.rank, int32(i), m.id})
		}
	}
	heap.Init(&w.queue)
	for len(w.queue) > 0 {
		c := heap.Pop(&w.queue).(candidate)
		s := &w.symbols[c.at]
		if s.id < 0 || s.next < 0 {
			continue
		}
		right := &w.symbols[s.next]
		if m, ok := w.merges[pair{s.id, right.id}]; !ok || m.id != c.id {
			continue
		}
		s.id, s.next, right.id = c.id, right.next, -1
		if s.next >= 0 {
			w.symbols[s.next].prev = c.at
			w.offer(c.at)
		}
		if s.prev >= 0 {
			w.offer(s.prev)
		}
	}
}

// offer queues the pair that begins at a symbol, if it can be joined.
func (w *word) offer(at int32) {
	s := w.symbols[at]
	if m, ok := w.merges[pair{s.id, w.symbols[s.next].id}]; ok {
		heap.Push(&w.queue, candidate{m.rank, at, m.id})
	}
}
