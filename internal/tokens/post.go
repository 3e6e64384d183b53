package tokens

import (
	"encoding/json"
	"fmt"
)

// parsePost reads what a post-processor puts around a single text.
func parsePost(raw json.RawMessage) (prefix, suffix []int32, err error) {
	kind, err := kindOf(raw)
	if err != nil || kind == "" {
		return nil, nil, err
	}
	switch kind {
	case "ByteLevel":
		return nil, nil, nil
	case "Sequence":
		f, err := decodeAs(raw, struct{ Processors []json.RawMessage }{})
		if err != nil {
			return nil, nil, err
		}
		for _, raw := range f.Processors {
			p, s, err := parsePost(raw)
			if err != nil {
				return nil, nil, err
			}
			prefix, suffix = append(p, prefix...), append(suffix, s...)
		}
		return prefix, suffix, nil
	case "TemplateProcessing":
		return template(raw)
	case "BertProcessing", "RobertaProcessing":
		f, err := decodeAs(raw, struct{ Sep, Cls tokenID }{})
		if err == nil && (f.Sep < 0 || f.Sep > maxID || f.Cls < 0 || f.Cls > maxID) {
			err = fmt.Errorf("sep %d, cls %d: not an id", f.Sep, f.Cls)
		}
		return []int32{int32(f.Cls)}, []int32{int32(f.Sep)}, err
	}
	return nil, nil, fmt.Errorf("type %q is not supported", kind)
}

// tokenID is the id of a pair [token, id].
type tokenID int32

func (t *tokenID) UnmarshalJSON(raw []byte) error {
	var token string
	var id int32
	list := []any{&token, &id}
	err := json.Unmarshal(raw, &list)
	*t = tokenID(id)
	return err
}

func template(raw json.RawMessage) (prefix, suffix []int32, err error) {
	f, err := decodeAs(raw, struct {
		Single []struct {
			SpecialToken *struct{ ID string }
			Sequence     *struct{ ID string }
		}
		Special map[string]struct{ IDs []int32 } `json:"special_tokens"`
	}{})
	if err != nil {
		return nil, nil, err
	}
	texts := 0
	for _, p := range f.Single {
		switch {
		case p.Sequence != nil:
			texts++
		case p.SpecialToken != nil:
			t, ok := f.Special[p.SpecialToken.ID]
			if !ok {
				return nil, nil, fmt.Errorf("special token %q is not described", p.SpecialToken.ID)
			}
			for _, id := range t.IDs {
				if id < 0 || id > maxID {
					return nil, nil, fmt.Errorf("special token %q: %d is no id", p.SpecialToken.ID, id)
				}
			}
			if texts == 0 {
				prefix = append(prefix, t.IDs...)
			} else {
				suffix = append(suffix, t.IDs...)
			}
		}
	}
	if texts != 1 {
		return nil, nil, fmt.Errorf("the template for a single text has it %d times", texts)
	}
	return prefix, suffix, nil
}
