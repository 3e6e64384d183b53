package checkpoint

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Edit is one change to a config.json.
type Edit struct {
	Path  []string // keys from the top, such as {"text_config", "quantization_config"}
	Value []byte   // JSON text; nil removes the key
}

// Set is the Edit that gives a key of the top a value, replacing the one it has.
func Set(key string, value []byte) Edit { return Edit{Path: []string{key}, Value: value} }

// Remove is the Edit that deletes a key, if it is there.
func Remove(path ...string) Edit { return Edit{Path: path} }

// EditConfig applies edits in order and changes nothing else: every other byte, and so the spelling of every number
// (transformers 5 refuses rms_norm_eps 1 for 1.0), stays. A value that is set takes on the indentation of the text; a
// new key goes where it belongs if the keys around it are in ascending order, as save_pretrained leaves them, and to
// the end if not. Removing a key that is not there does nothing; setting one below an object that is not there is an
// error, as is a raw that ParseConfig refuses.
func EditConfig(raw []byte, edits ...Edit) ([]byte, error) {
	if _, err := ParseConfig(raw); err != nil {
		return nil, err
	}
	out := bytes.Clone(raw)
	for _, e := range edits {
		if len(e.Path) == 0 {
			return nil, fmt.Errorf("edit %s: empty path", configName)
		}
		if e.Value != nil && !jsontext.Value(e.Value).IsValid() {
			return nil, fmt.Errorf("edit %s: set %s: value is not JSON", configName, strings.Join(e.Path, "."))
		}
		var err error
		if out, err = applyEdit(out, e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// RemoveQuantization returns the edits that delete every trace of a quantization method from c: quantization_config,
// compression_config and MLX's quantization, at the top and in nested configs.
func (c *Config) RemoveQuantization() []Edit {
	var edits []Edit
	c.eachConfig(func(path []string, obj object) {
		for _, key := range []string{"quantization_config", "compression_config", "quantization"} {
			if obj.find(key) >= 0 {
				edits = append(edits, Remove(append(slices.Clone(path), key)...))
			}
		}
	})
	return edits
}

// SetDType returns the edits that make dtype the dtype of the model: under the name the top has, under both names
// where it has neither (older tools read torch_dtype alone), and in nested configs that name one.
func (c *Config) SetDType(dtype string) []Edit {
	var edits []Edit
	value := strconv.AppendQuote(nil, dtype)
	c.eachConfig(func(path []string, obj object) {
		top, found := len(path) == 0, false
		for _, key := range dtypeKeys {
			// A null below the top means "as the top"; at the top it means nothing.
			if i := obj.find(key); i >= 0 && (top || c.shadow[obj.members[i].valStart] == '"') {
				edits = append(edits, Edit{Path: append(slices.Clone(path), key), Value: value})
				found = true
			}
		}
		if top && !found {
			for _, key := range dtypeKeys {
				edits = append(edits, Set(key, value))
			}
		}
	})
	return edits
}

// eachConfig visits the top and every object below it that is called *_config, parents first. Quantization configs
// are not model configs.
func (c *Config) eachConfig(visit func(path []string, obj object)) {
	var walk func(path []string, at int)
	walk = func(path []string, at int) {
		obj, ok := scanObject(c.shadow, at)
		if !ok {
			return
		}
		visit(path, obj)
		for _, m := range obj.members {
			if isNestedConfig(m.key) && c.shadow[m.valStart] == '{' {
				walk(append(slices.Clone(path), m.key), m.valStart)
			}
		}
	}
	walk(nil, 0)
}

func isNestedConfig(key string) bool {
	return strings.HasSuffix(key, "_config") && key != "quantization_config" && key != "compression_config"
}

// span is a member of an object in a text, by offsets; the value ends where valEnd begins.
type span struct {
	key                                string
	keyStart, keyEnd, valStart, valEnd int
}

// object is a JSON object in a text: the offsets of its braces and its members.
type object struct {
	open, close int
	members     []span
}

// scanObject finds the members of the object that begins at or after offset at. ok is false if there is none.
func scanObject(text []byte, at int) (obj object, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(text[at:]))
	tok, err := dec.ReadToken()
	if err != nil || tok.Kind() != '{' {
		return object{}, false
	}
	obj.open = at + int(dec.InputOffset()) - 1
	for dec.PeekKind() != '}' {
		var m span
		name, err := dec.ReadValue()
		if err != nil {
			return object{}, false
		}
		m.keyEnd = at + int(dec.InputOffset())
		m.keyStart = m.keyEnd - len(name)
		key, err := jsontext.AppendUnquote(nil, name)
		if err != nil {
			return object{}, false
		}
		m.key = string(key)
		value, err := dec.ReadValue()
		if err != nil {
			return object{}, false
		}
		m.valEnd = at + int(dec.InputOffset())
		m.valStart = m.valEnd - len(value)
		obj.members = append(obj.members, m)
	}
	if _, err := dec.ReadToken(); err != nil {
		return object{}, false
	}
	obj.close = at + int(dec.InputOffset()) - 1
	return obj, true
}

func (o object) find(key string) int {
	return slices.IndexFunc(o.members, func(m span) bool { return m.key == key })
}

// lookupPath follows keys from the top of text.
func lookupPath(text []byte, path []string) (m span, ok bool) {
	for at, rest := 0, path; len(rest) > 0; rest = rest[1:] {
		obj, found := scanObject(text, at)
		if !found {
			return span{}, false
		}
		i := obj.find(rest[0])
		if i < 0 {
			return span{}, false
		}
		m, ok, at = obj.members[i], true, obj.members[i].valStart
	}
	return m, ok
}

func applyEdit(raw []byte, e Edit) ([]byte, error) {
	text := strictJSON(raw)
	parent, at := e.Path[:len(e.Path)-1], 0
	if len(parent) > 0 {
		m, ok := lookupPath(text, parent)
		if ok {
			at = m.valStart
		}
		if !ok || text[at] != '{' {
			if e.Value == nil {
				return raw, nil
			}
			return nil, fmt.Errorf("edit %s: set %s: no object %s", configName, strings.Join(e.Path, "."), strings.Join(parent, "."))
		}
	}
	obj, ok := scanObject(text, at)
	if !ok {
		return nil, fmt.Errorf("edit %s: not an object", configName) // unreachable: ParseConfig has seen it
	}
	key := e.Path[len(e.Path)-1]
	i := obj.find(key)
	switch {
	case e.Value == nil && i < 0:
		return raw, nil
	case e.Value == nil:
		return removeMember(raw, obj, i), nil
	}
	value, err := indentLike(raw, obj, len(parent), e.Value)
	if err != nil {
		return nil, fmt.Errorf("edit %s: set %s: %w", configName, strings.Join(e.Path, "."), err)
	}
	if i >= 0 {
		return splice(raw, obj.members[i].valStart, obj.members[i].valEnd, value), nil
	}
	return insertMember(raw, obj, len(parent), key, value)
}

func splice(raw []byte, from, to int, with []byte) []byte {
	return slices.Concat(raw[:from], with, raw[to:])
}

// removeMember deletes a member with one of the commas around it.
func removeMember(raw []byte, obj object, i int) []byte {
	switch {
	case len(obj.members) == 1:
		return splice(raw, obj.open+1, obj.close, nil)
	case i+1 < len(obj.members):
		return splice(raw, obj.members[i].keyStart, obj.members[i+1].keyStart, nil)
	}
	return splice(raw, obj.members[i-1].valEnd, obj.members[i].valEnd, nil)
}

// insertMember adds a member, spaced like its neighbours.
func insertMember(raw []byte, obj object, depth int, key string, value []byte) ([]byte, error) {
	name, err := jsontext.AppendQuote(nil, key)
	if err != nil {
		return nil, fmt.Errorf("edit %s: key %q: %w", configName, key, err)
	}
	if len(obj.members) == 0 {
		lead, tail := "", ""
		if unit, multi := indentUnit(raw); multi {
			lead, tail = "\n"+strings.Repeat(unit, depth+1), "\n"+strings.Repeat(unit, depth)
		}
		return splice(raw, obj.open+1, obj.close, slices.Concat([]byte(lead), name, []byte(": "), value, []byte(tail))), nil
	}
	last := obj.members[len(obj.members)-1]
	lead, colon := leadOf(raw, obj, len(obj.members)-1), raw[last.keyEnd:last.valStart]
	if len(obj.members) == 1 && len(lead) == 0 {
		// A single member on the line of its brace shows no comma: what follows its colon is the next best guide.
		lead = colon[bytes.IndexByte(colon, ':')+1:]
	}
	at := len(obj.members)
	if slices.IsSortedFunc(obj.members, func(a, b span) int { return strings.Compare(a.key, b.key) }) {
		at, _ = slices.BinarySearchFunc(obj.members, key, func(m span, key string) int { return strings.Compare(m.key, key) })
	}
	if at == len(obj.members) {
		return splice(raw, last.valEnd, last.valEnd, slices.Concat([]byte{','}, lead, name, colon, value)), nil
	}
	next := obj.members[at].keyStart
	return splice(raw, next, next, slices.Concat(name, colon, value, []byte{','}, lead)), nil
}

// leadOf is the white space before a member's key.
func leadOf(raw []byte, obj object, i int) []byte {
	from := obj.open + 1
	if i > 0 {
		from = obj.members[i-1].valEnd
	}
	gap := raw[from:obj.members[i].keyStart]
	return gap[bytes.IndexByte(gap, ',')+1:]
}

// indentUnit is one level of the text's indentation; multi is false for a text on one line.
func indentUnit(raw []byte) (unit string, multi bool) {
	obj, ok := scanObject(strictJSON(raw), 0)
	if !ok {
		return "", false
	}
	if len(obj.members) == 0 {
		return "  ", bytes.ContainsRune(raw[obj.open:obj.close], '\n')
	}
	lead := raw[obj.open+1 : obj.members[0].keyStart]
	nl := bytes.LastIndexByte(lead, '\n')
	return string(lead[nl+1:]), nl >= 0
}

// indentLike formats a value for a member of obj: over several lines if obj is, else as it is given.
func indentLike(raw []byte, obj object, depth int, value []byte) ([]byte, error) {
	unit, multi := indentUnit(raw)
	prefix := strings.Repeat(unit, depth+1)
	if len(obj.members) > 0 {
		lead := leadOf(raw, obj, 0)
		nl := bytes.LastIndexByte(lead, '\n')
		multi = multi && nl >= 0
		prefix = string(lead[nl+1:])
	}
	v := jsontext.Value(bytes.Clone(value))
	if !multi || strings.Trim(unit+prefix, " \t") != "" {
		return v, nil
	}
	if err := v.Indent(jsontext.WithIndentPrefix(prefix), jsontext.WithIndent(unit)); err != nil {
		return nil, err
	}
	return v, nil
}
