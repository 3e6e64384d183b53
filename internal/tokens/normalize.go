package tokens

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// parseNormalizer reads a normalizer; nil is none.
func parseNormalizer(raw json.RawMessage) (normalizer, error) {
	kind, err := kindOf(raw)
	if err != nil || kind == "" {
		return nil, err
	}
	plain := func(f func(string) string) (normalizer, error) {
		return func(s string) (string, error) { return f(s), nil }, nil
	}
	switch kind {
	case "Sequence":
		return normalizers(raw)
	case "NFC":
		return plain(norm.NFC.String)
	case "NFD":
		return plain(norm.NFD.String)
	case "NFKC":
		return plain(norm.NFKC.String)
	case "NFKD":
		return plain(norm.NFKD.String)
	case "Lowercase":
		return plain(lower)
	case "StripAccents":
		return plain(withoutMarks)
	case "ByteLevel":
		return plain(byteLevel)
	case "Prepend":
		f, err := decodeAs(raw, struct{ Prepend string }{})
		if err != nil {
			return nil, err
		}
		return plain(func(s string) string {
			if s == "" {
				return s
			}
			return f.Prepend + s
		})
	case "Strip":
		f, err := decodeAs(raw, struct {
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}{})
		if err != nil {
			return nil, err
		}
		return plain(func(s string) string {
			if f.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if f.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		})
	case "Replace":
		return replacer(raw)
	case "BertNormalizer":
		return bertNormalizer(raw)
	}
	return nil, fmt.Errorf("type %q is not supported", kind)
}

func normalizers(raw json.RawMessage) (normalizer, error) {
	f, err := decodeAs(raw, struct{ Normalizers []json.RawMessage }{})
	if err != nil {
		return nil, err
	}
	var list []normalizer
	for _, raw := range f.Normalizers {
		n, err := parseNormalizer(raw)
		if err != nil {
			return nil, err
		}
		if n != nil {
			list = append(list, n)
		}
	}
	return func(s string) (string, error) {
		for _, n := range list {
			var err error
			if s, err = n(s); err != nil {
				return "", err
			}
		}
		return s, nil
	}, nil
}

func replacer(raw json.RawMessage) (normalizer, error) {
	f, err := decodeAs(raw, struct {
		Pattern json.RawMessage
		Content string
	}{})
	if err != nil {
		return nil, err
	}
	p, err := parsePattern(f.Pattern)
	if err != nil {
		return nil, err
	}
	return func(s string) (string, error) {
		found, err := p.find(s)
		if err != nil || len(found) == 0 {
			return s, err
		}
		var b strings.Builder
		at := 0
		for _, m := range found {
			b.WriteString(s[at:m[0]])
			b.WriteString(f.Content)
			at = m[1]
		}
		b.WriteString(s[at:])
		return b.String(), nil
	}, nil
}

// lower maps every character by itself, without regard to its neighbours.
func lower(s string) string {
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		if r == 'İ' {
			return r
		}
		return unicode.ToLower(r)
	}, s), "İ", "i̇")
}

func withoutMarks(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return r
	}, s)
}

// bertNormalizer is that of BERT: clean, part Chinese characters, strip accents, lower.
func bertNormalizer(raw json.RawMessage) (normalizer, error) {
	f, err := decodeAs(raw, struct {
		Clean   bool  `json:"clean_text"`
		Chinese bool  `json:"handle_chinese_chars"`
		Strip   *bool `json:"strip_accents"`
		Lower   bool  `json:"lowercase"`
	}{Clean: true, Chinese: true, Lower: true})
	if err != nil {
		return nil, err
	}
	return func(s string) (string, error) {
		if f.Clean {
			s = strings.Map(func(r rune) rune {
				switch {
				case r == '\t' || r == '\n' || r == '\r':
					return ' '
				case r == 0xfffd || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
					return -1
				case unicode.IsSpace(r):
					return ' '
				}
				return r
			}, s)
		}
		if f.Chinese {
			var b strings.Builder
			for _, r := range s {
				if chinese(r) {
					b.WriteString(" " + string(r) + " ")
				} else {
					b.WriteRune(r)
				}
			}
			s = b.String()
		}
		if f.Strip != nil && *f.Strip || f.Strip == nil && f.Lower {
			s = withoutMarks(norm.NFD.String(s))
		}
		if f.Lower {
			s = lower(s)
		}
		return s, nil
	}, nil
}

func chinese(r rune) bool {
	for _, p := range [][2]rune{{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
		{0xF900, 0xFAFF}, {0x2F800, 0x2FA1F}} {
		if r >= p[0] && r <= p[1] {
			return true
		}
	}
	return false
}
