package tokens

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxID is the largest id that is taken: those of models in use end below 2^18.
const maxID = 1 << 24

// parseModel reads a model. Older files do not name its type.
func parseModel(raw json.RawMessage) (model, error) {
	kind, err := kindOf(raw)
	if err != nil {
		var keys map[string]json.RawMessage
		if json.Unmarshal(raw, &keys) != nil {
			return nil, err
		}
		switch {
		case keys["merges"] != nil:
			kind = "BPE"
		case keys["max_input_chars_per_word"] != nil:
			kind = "WordPiece"
		default:
			return nil, err
		}
	}
	switch kind {
	case "BPE":
		return parseBPE(raw)
	case "WordPiece":
		return parseWordPiece(raw)
	case "Unigram":
		return parseUnigram(raw)
	case "":
		return nil, fmt.Errorf("there is none")
	}
	return nil, fmt.Errorf("type %q is not supported", kind)
}

// checkIDs returns the largest id.
func checkIDs(vocab iter.Seq2[string, int32]) (largest int, err error) {
	largest = -1
	for token, id := range vocab {
		if id < 0 || id > maxID {
			return 0, fmt.Errorf("token %q has id %d: expected 0 to %d", token, id, maxID)
		}
		largest = max(largest, int(id))
	}
	if largest < 0 {
		return 0, fmt.Errorf("the vocabulary is empty")
	}
	return largest, nil
}

// wordPiece takes the longest token that a word begins with, then that of the rest.
type wordPiece struct {
	vocab    map[string]int32
	unk      string
	prefix   string
	maxChars int
	longest  int // bytes of a token
	largest  int
}

func parseWordPiece(raw json.RawMessage) (model, error) {
	f, err := decodeAs(raw, struct {
		Vocab    map[string]int32
		Unk      string `json:"unk_token"`
		Prefix   string `json:"continuing_subword_prefix"`
		MaxChars int    `json:"max_input_chars_per_word"`
	}{Unk: "[UNK]", Prefix: "##", MaxChars: 100})
	if err != nil {
		return nil, err
	}
	m := &wordPiece{vocab: f.Vocab, unk: f.Unk, prefix: f.Prefix, maxChars: f.MaxChars}
	for t := range m.vocab {
		m.longest = max(m.longest, len(t))
	}
	m.largest, err = checkIDs(maps.All(m.vocab))
	return m, err
}

func (m *wordPiece) id(token string) (int32, bool) {
	id, ok := m.vocab[token]
	return id, ok
}

func (m *wordPiece) size() int { return m.largest + 1 }

func (m *wordPiece) encode(text string, ids []int32) ([]int32, error) {
	first := len(ids)
	known := utf8.RuneCountInString(text) <= m.maxChars
	for at := 0; known && at < len(text); {
		prefix := ""
		if at > 0 {
			prefix = m.prefix
		}
		known = false
		for end := min(len(text), at+m.longest); end > at; end-- {
			if id, ok := m.vocab[prefix+text[at:end]]; ok {
				ids, at, known = append(ids, id), end, true
				break
			}
		}
	}
	if known {
		return ids, nil
	}
	id, ok := m.vocab[m.unk]
	if !ok {
		return nil, fmt.Errorf("%q cannot be put together, and unk_token %q is not in the vocabulary", text, m.unk)
	}
	return append(ids[:first], id), nil
}

// unigram finds the tokens of the highest sum of scores.
type unigram struct {
	vocab        map[string]int32
	scores       []float64
	lengths      []int // of tokens, in bytes, ascending
	unk          int32 // -1: none
	unkScore     float64
	byteFallback bool
}

// unkPenalty is what an unknown character costs beside the least likely token, as in SentencePiece.
const unkPenalty = 10

func parseUnigram(raw json.RawMessage) (model, error) {
	f, err := decodeAs(raw, struct {
		Vocab        []scored
		Unk          *int32 `json:"unk_id"`
		ByteFallback bool   `json:"byte_fallback"`
	}{})
	if err != nil {
		return nil, err
	}
	m := &unigram{vocab: make(map[string]int32, len(f.Vocab)), unk: -1, byteFallback: f.ByteFallback}
	lowest := math.Inf(1)
	lengths := map[int]bool{}
	for i, v := range f.Vocab {
		m.vocab[v.token] = int32(i)
		m.scores = append(m.scores, v.score)
		lowest = min(lowest, v.score)
		if v.token != "" {
			lengths[len(v.token)] = true
		}
	}
	if _, err := checkIDs(maps.All(m.vocab)); err != nil {
		return nil, err
	}
	m.lengths = slices.Sorted(maps.Keys(lengths))
	m.unkScore = lowest - unkPenalty
	if f.Unk != nil {
		if m.unk = *f.Unk; m.unk < 0 || int(m.unk) >= len(f.Vocab) {
			return nil, fmt.Errorf("unk_id %d of a vocabulary of %d", m.unk, len(f.Vocab))
		}
	}
	return m, nil
}

// scored is an entry [token, score].
type scored struct {
	token string
	score float64
}

func (s *scored) UnmarshalJSON(raw []byte) error {
	list := [2]any{&s.token, &s.score}
	var n []json.RawMessage
	if err := json.Unmarshal(raw, &n); err != nil {
		return err
	}
	if len(n) != len(list) {
		return fmt.Errorf("entry %s of the vocabulary: expected a token and its score", raw)
	}
	return json.Unmarshal(raw, &list)
}

func (m *unigram) id(token string) (int32, bool) {
	id, ok := m.vocab[token]
	return id, ok
}

func (m *unigram) size() int { return len(m.scores) }

func (m *unigram) encode(text string, ids []int32) ([]int32, error) {
	for _, s := range m.best(text) {
		id, ok := m.vocab[s]
		switch {
		case ok:
			ids = append(ids, id)
			continue
		case m.byteFallback:
			var bytes []int32
			for i := range len(s) {
				if id, ok := m.vocab[fmt.Sprintf("<0x%02X>", s[i])]; ok {
					bytes = append(bytes, id)
				}
			}
			if len(bytes) == len(s) {
				ids = append(ids, bytes...)
				continue
			}
		}
		if m.unk < 0 {
			return nil, fmt.Errorf("%q is not in the vocabulary, and there is no unk_id", s)
		}
		ids = append(ids, m.unk)
	}
	return ids, nil
}

// best cuts text into tokens; unknown characters in a row are one.
func (m *unigram) best(text string) []string {
	type end struct {
		score float64
		from  int
		unk   bool
	}
	ends := make([]end, len(text)+1)
	for i := range ends {
		ends[i].from = -1
	}
	for at, r := range text {
		n, single := len(string(r)), false
		offer := func(to int, score float64, unk bool) {
			if e := &ends[to]; e.from < 0 || score+ends[at].score > e.score {
				*e = end{score + ends[at].score, at, unk}
			}
		}
		for _, l := range m.lengths {
			if at+l > len(text) {
				break
			}
			if id, ok := m.vocab[text[at:at+l]]; ok {
				offer(at+l, m.scores[id], id == m.unk)
				single = single || l == n
			}
		}
		if !single {
			offer(at+n, m.unkScore, true)
		}
	}
	var out []string
	unknown := false // the last of out is
	for to := len(text); to > 0; to = ends[to].from {
		e := ends[to]
		if e.unk && m.unk >= 0 && unknown {
			out[len(out)-1] = text[e.from:to] + out[len(out)-1]
		} else {
			out = append(out, strings.Clone(text[e.from:to]))
		}
		unknown = e.unk
	}
	slices.Reverse(out)
	return out
}
