package tokens

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// FileName is the tokenizer's file in a model directory.
const FileName = "tokenizer.json"

// MaxFile is the largest tokenizer.json that is read; the largest in use are some 35 MB.
const MaxFile = 256 << 20

// A Tokenizer is what a tokenizer.json describes. It may be used by several goroutines.
type Tokenizer struct {
	added     addedTokens
	normalize normalizer // nil: none
	split     splitter   // nil: none
	model     model
	size      int
	prefix    []int32
	suffix    []int32
}

// A piece is a part of the text; start tells whether it is the beginning of the whole.
type piece struct {
	text  string
	start bool
}

// A normalizer changes text; it is given no empty one.
type normalizer func(string) (string, error)

// A splitter is a pre-tokenizer: it cuts a piece, and may change it.
type splitter func(piece) ([]piece, error)

// A model makes ids of a piece that is not empty.
type model interface {
	encode(text string, ids []int32) ([]int32, error)
	id(token string) (int32, bool)
	size() int // one more than the largest id
}

// Parse reads a tokenizer.json. name is that of the file, for errors, each a [*checkpoint.InputError].
func Parse(raw []byte, name string) (*Tokenizer, error) {
	var f struct {
		AddedTokens   []addedToken    `json:"added_tokens"`
		Normalizer    json.RawMessage `json:"normalizer"`
		PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
		PostProcessor json.RawMessage `json:"post_processor"`
		Model         json.RawMessage `json:"model"`
	}
	bad := func(part string, err error) error {
		return &checkpoint.InputError{File: name, Tensor: part, Expected: "a tokenizer that nf4kit knows", Found: "another", Err: err,
			Hint: "give ids instead of text: --tokens FILE"}
	}
	if !utf8.Valid(raw) {
		return nil, bad("", fmt.Errorf("not UTF-8"))
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, bad("", err)
	}
	t := &Tokenizer{}
	var err error
	if t.model, err = parseModel(f.Model); err != nil {
		return nil, bad("model", err)
	}
	if t.normalize, err = parseNormalizer(f.Normalizer); err != nil {
		return nil, bad("normalizer", err)
	}
	if t.split, err = parseSplitter(f.PreTokenizer); err != nil {
		return nil, bad("pre_tokenizer", err)
	}
	if t.added, err = newAddedTokens(f.AddedTokens, t.model, t.normalize); err != nil {
		return nil, bad("added_tokens", err)
	}
	if t.prefix, t.suffix, err = parsePost(f.PostProcessor); err != nil {
		return nil, bad("post_processor", err)
	}
	t.size = max(t.model.size(), t.added.size)
	return t, nil
}

// Size is one more than the largest id.
func (t *Tokenizer) Size() int { return t.size }

// Special are the ids that the tokenizer puts before and after a text, such as a token for its beginning; they are not to be
// changed.
func (t *Tokenizer) Special() (prefix, suffix []int32) { return t.prefix, t.suffix }

// Encode gives the ids of text, without those of Special. Special tokens that stand in the text are recognized, as by the
// original. Text that is no UTF-8 is an error.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	if at := invalid(text); at >= 0 {
		return nil, fmt.Errorf("byte %d is no UTF-8", at)
	}
	var ids []int32
	for _, raw := range t.added.plain.cut(piece{text, true}) {
		if raw.id >= 0 {
			ids = append(ids, raw.id)
			continue
		}
		p := raw.piece
		if t.normalize != nil {
			var err error
			if p.text, err = t.normalize(p.text); err != nil {
				return nil, err
			}
		}
		for _, s := range t.added.normalized.cut(p) {
			if s.id >= 0 {
				ids = append(ids, s.id)
				continue
			}
			var err error
			if ids, err = t.encode(s.piece, ids); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// encode appends the ids of a piece without added tokens.
func (t *Tokenizer) encode(p piece, ids []int32) ([]int32, error) {
	pieces := []piece{p}
	if t.split != nil {
		var err error
		if pieces, err = t.split(p); err != nil {
			return nil, err
		}
	}
	for _, p := range pieces {
		if p.text == "" {
			continue
		}
		var err error
		if ids, err = t.model.encode(p.text, ids); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// invalid is the index of the first byte that is no UTF-8, -1 if there is none.
func invalid(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, r := range s {
		if _, n := utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && n == 1 {
			return i
		}
	}
	return -1
}

// kindOf is the type of a part of tokenizer.json, "" if the part is not there.
func kindOf(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var t struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", err
	}
	if t.Type == "" {
		return "", fmt.Errorf("it has no type")
	}
	return t.Type, nil
}

// decodeAs decodes a part.
func decodeAs[T any](raw json.RawMessage, defaults T) (T, error) {
	err := json.Unmarshal(raw, &defaults)
	return defaults, err
}
