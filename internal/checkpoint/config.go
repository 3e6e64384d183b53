package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// MaxConfigSize bounds config.json and the other small JSON files; the largest known, with a label map of 21,843
	// classes in it, is under 2 MB.
	MaxConfigSize = 8 << 20
	// maxConfigNesting bounds how deep config.json may nest; composite models reach 5.
	maxConfigNesting = 100
	// maxNestedConfigs bounds the members called *_config, each of which may cost EditConfig a pass over the text;
	// composite models have some ten.
	maxNestedConfigs = 64
)

// maxConfigTokens bounds the strings, numbers and brackets of a config.json, each of which costs every pass over it. The
// largest known has some 90,000: two label maps of 21,843.
const maxConfigTokens = 1 << 18

// BoundTokens refuses a JSON text of more tokens than limit before a decoder makes values of them, which take many times
// their text: "0," is two bytes of it. Text that is no JSON passes as far as it can be read: to say so is for whoever decodes.
func BoundTokens(file string, raw []byte, limit int) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for n := 0; ; n++ {
		if _, err := dec.ReadToken(); err != nil {
			return nil
		}
		if n == limit {
			return &InputError{File: file, Expected: fmt.Sprintf("at most %d values, names and brackets", limit), Found: "more"}
		}
	}
}

// Config gives read access to a config.json. It keeps the text as it stands: numbers are tokens, not float64.
type Config struct {
	raw    []byte
	shadow []byte // raw as strict JSON of the same length, see strictJSON
}

// ParseConfig checks that raw is a JSON object, with no key twice in one object, not too large and not too deep. It
// takes the NaN and Infinity that Python writes. Its errors are *InputError for config.json.
func ParseConfig(raw []byte) (*Config, error) { return parseConfig(configName, raw) }

func parseConfig(file string, raw []byte) (*Config, error) {
	if len(raw) > MaxConfigSize {
		return nil, &InputError{File: file, Expected: fmt.Sprintf("at most %d bytes", MaxConfigSize), Found: fmt.Sprint(len(raw))}
	}
	c := &Config{raw: raw, shadow: strictJSON(raw)}
	if err := BoundTokens(file, c.shadow, maxConfigTokens); err != nil {
		return nil, err
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(c.shadow))
	if k := dec.PeekKind(); k != '{' {
		if _, err := dec.ReadToken(); err != nil && !errors.Is(err, io.EOF) {
			return nil, malformedJSON(file, err)
		}
		return nil, &InputError{File: file, Expected: "a JSON object", Found: kindName(k)}
	}
	nested := 0
	for {
		tok, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return nil, malformedJSON(file, err)
		}
		if tok.Kind() == '"' && isNestedConfig(tok.String()) {
			if nested++; nested > maxNestedConfigs {
				return nil, &InputError{File: file, Expected: fmt.Sprintf("at most %d nested configs", maxNestedConfigs), Found: "more"}
			}
		}
		switch depth := dec.StackDepth(); {
		case depth > maxConfigNesting:
			return nil, &InputError{File: file, Expected: fmt.Sprintf("at most %d levels", maxConfigNesting), Found: "deeper nesting"}
		case depth == 0:
			if rest := bytes.Trim(c.shadow[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
				return nil, &InputError{File: file, Expected: "one JSON object", Found: "more text after it"}
			}
		}
	}
}

// strictJSON replaces the tokens that Python's json writes and JSON lacks (NaN, Infinity, -Infinity; Mamba-2's
// time_step_limit has one) by numbers of the same length, so that every offset holds in both texts. It returns raw
// itself where there is nothing to replace.
func strictJSON(raw []byte) []byte {
	out := raw
	inString := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == 'N' || c == 'I'):
			for _, token := range []string{"NaN", "Infinity"} {
				end := i + len(token)
				if !bytes.HasPrefix(raw[i:], []byte(token)) || i == 0 || !bytes.ContainsRune([]byte(" \t\r\n:,[-"), rune(raw[i-1])) ||
					end == len(raw) || !bytes.ContainsRune([]byte(" \t\r\n,]}"), rune(raw[end])) {
					continue
				}
				if &out[0] == &raw[0] {
					out = bytes.Clone(raw)
				}
				copy(out[i:], bytes.Repeat([]byte{'9'}, len(token)))
				i += len(token) - 1
			}
		}
	}
	return out
}

// Strict is the text with Python's NaN and Infinity replaced by numbers of nines, for readers that take JSON alone.
func (c *Config) Strict() []byte { return c.shadow }

// Get returns the text of the value at a path of keys, such as "text_config", "dtype".
func (c *Config) Get(path ...string) (value []byte, ok bool) {
	m, ok := lookupPath(c.shadow, path)
	if !ok {
		return nil, false
	}
	return c.raw[m.valStart:m.valEnd], true
}

// String returns the string at a path; ok is false if there is none or it is not a string.
func (c *Config) String(path ...string) (s string, ok bool) {
	v, ok := c.Get(path...)
	if !ok || jsontext.Value(v).Kind() != '"' {
		return "", false
	}
	text, err := jsontext.AppendUnquote(nil, v)
	return string(text), err == nil
}

// Bool returns the boolean at a path; ok is false if there is none or it is not one.
func (c *Config) Bool(path ...string) (b, ok bool) {
	v, _ := c.Get(path...)
	switch string(v) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}

// Keys returns the keys of the object at a path (the top without one), in their order; nil if there is no object.
func (c *Config) Keys(path ...string) []string {
	at := 0
	if len(path) > 0 {
		m, ok := lookupPath(c.shadow, path)
		if !ok {
			return nil
		}
		at = m.valStart
	}
	obj, ok := scanObject(c.shadow, at)
	if !ok {
		return nil
	}
	keys := make([]string, len(obj.members))
	for i, m := range obj.members {
		keys[i] = m.key
	}
	return keys
}

// Architectures is the list of class names; nil if there is none.
func (c *Config) Architectures() []string {
	v, _ := c.Get("architectures")
	if jsontext.Value(v).Kind() != '[' {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(v))
	var list []string
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return list
		}
		if tok.Kind() == '"' {
			list = append(list, tok.String())
		}
	}
}

// DType is the dtype the model is meant to run in, without "torch.": dtype or torch_dtype of the top, or else of
// text_config; "" where none of them is a string.
func (c *Config) DType() string {
	for _, prefix := range [][]string{nil, {"text_config"}} {
		for _, key := range dtypeKeys {
			if s, ok := c.String(append(slices.Clone(prefix), key)...); ok {
				return strings.TrimPrefix(s, "torch.")
			}
		}
	}
	return ""
}

// dtypeKeys: transformers 4.57 and 5 write the first, 4.55 and before the second; all read the second.
var dtypeKeys = []string{"dtype", "torch_dtype"}
