package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxIndexSize bounds an index file. The largest known, a mixture of experts with every sidecar listed, is some 40 MB.
const MaxIndexSize = 256 << 20

// Index is a model.safetensors.index.json: which file holds which tensor.
type Index struct {
	TotalParameters int64 // logical parameters, before packing; 0 if not given
	TotalSize       int64 // bytes of all tensors, sidecars included; 0 if not given
	HasMetadata     bool  // transformers raises an error without the object, though it may be empty
	WeightMap       map[string]string
	Repeated        []string // tensors that the file has more than once; the last counts, as in Python's json

	spelled map[string]string // each file's last spelling in the order of strings, such as ./x for x
}

// Shards returns the names of the files in the order in which transformers reads them (utils/hub.py,
// get_checkpoint_shard_files: that of their spellings). Of a tensor in two files it takes the one read last.
func (ix *Index) Shards() []string {
	names := make(map[string]bool)
	for _, shard := range ix.WeightMap {
		names[shard] = true
	}
	spelling := func(shard string) string { return cmp.Or(ix.spelled[shard], shard) }
	return slices.SortedFunc(maps.Keys(names), func(a, b string) int { return strings.Compare(spelling(a), spelling(b)) })
}

// ParseIndex reads an index as Python's json would: of a key given twice the last counts. Its errors are *InputError
// with file as the File. Every shard name is checked to be that of a safetensors file in the same directory or below
// it, and cleaned: ./x is x.
func ParseIndex(file string, raw []byte) (*Index, error) {
	if len(raw) > MaxIndexSize {
		return nil, &InputError{File: file, Expected: fmt.Sprintf("at most %d bytes", MaxIndexSize), Found: fmt.Sprintf("%d", len(raw))}
	}
	if err := BoundTokens(file, raw, 2*MaxTensors+1<<16); err != nil {
		return nil, err
	}
	p := indexParser{file: file, dec: newIndexDecoder(raw), ix: &Index{spelled: make(map[string]string)}, shards: make(map[string]string)}
	if err := p.object("an object", p.top); err != nil {
		return nil, err
	}
	if rest := bytes.Trim(raw[p.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, &InputError{File: file, Expected: "one JSON object", Found: "more text after it"}
	}
	if p.ix.WeightMap == nil {
		return nil, &InputError{File: file, Expected: "a weight_map object", Found: "none",
			Hint: "the file is no index of safetensors shards: fetch it again"}
	}
	slices.Sort(p.ix.Repeated)
	p.ix.Repeated = slices.Compact(p.ix.Repeated)
	return p.ix, nil
}

// newIndexDecoder lets duplicate names pass, as Python's json does.
func newIndexDecoder(raw []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true))
}

type indexParser struct {
	file string
	dec  *jsontext.Decoder
	ix   *Index

	shards map[string]string // each name as spelled to its one clean copy: there are thousands of tensors to a shard
}

// object reads an object and calls member after each name.
func (p *indexParser) object(what string, member func(name string) error) error {
	open, err := p.dec.ReadToken()
	if err != nil {
		return p.malformed(err)
	}
	if open.Kind() != '{' {
		return &InputError{File: p.file, Tensor: key(p.dec.StackPointer()), Expected: what, Found: kindName(open.Kind())}
	}
	for p.dec.PeekKind() != '}' {
		tok, err := p.dec.ReadToken()
		if err != nil {
			return p.malformed(err)
		}
		if err := member(tok.String()); err != nil {
			return err
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return p.malformed(err)
	}
	return nil
}

func (p *indexParser) top(name string) error {
	switch name {
	case "metadata":
		if p.ix.HasMetadata = p.dec.PeekKind() == '{'; !p.ix.HasMetadata {
			return p.skip()
		}
		return p.object("an object", func(name string) error {
			v, err := p.dec.ReadValue()
			if err != nil {
				return p.malformed(err)
			}
			// Older writers put floats here; nobody relies on the figures, so what is no integer is let pass.
			switch n, err := strconv.ParseInt(string(v), 10, 64); {
			case err != nil:
			case name == "total_size":
				p.ix.TotalSize = n
			case name == "total_parameters":
				p.ix.TotalParameters = n
			}
			return nil
		})
	case "weight_map":
		p.ix.WeightMap, p.ix.Repeated = make(map[string]string), nil
		clear(p.ix.spelled)
		clear(p.shards)
		return p.object("a weight_map object", p.entry)
	}
	return p.skip()
}

// entry reads the file of one tensor.
func (p *indexParser) entry(tensor string) error {
	v, err := p.dec.ReadToken()
	if err != nil {
		return p.malformed(err)
	}
	if v.Kind() != '"' {
		return &InputError{File: p.file, Tensor: clip(tensor), Expected: "the name of a shard", Found: kindName(v.Kind())}
	}
	name := v.String()
	shard, ok := p.shards[name]
	if !ok {
		if reason := unsafeShardName(name); reason != "" {
			return &InputError{File: p.file, Tensor: clip(tensor), Expected: "the name of a .safetensors file in the same directory or below it",
				Found: fmt.Sprintf("%q, %s", clip(name), reason)}
		}
		shard = path.Clean(name)
		p.shards[name] = shard
		p.ix.spelled[shard] = max(p.ix.spelled[shard], name)
	}
	if _, again := p.ix.WeightMap[tensor]; again {
		p.ix.Repeated = append(p.ix.Repeated, tensor)
	}
	p.ix.WeightMap[tensor] = shard
	return nil
}

func (p *indexParser) skip() error {
	if err := p.dec.SkipValue(); err != nil {
		return p.malformed(err)
	}
	return nil
}

func (p *indexParser) malformed(err error) error { return malformedJSON(p.file, err) }

// malformedJSON turns jsontext's errors into an *InputError that says where.
func malformedJSON(file string, err error) *InputError {
	e := &InputError{File: file, Expected: "valid JSON", Found: "malformed text", Hint: "fetch the file again"}
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) {
		e.Found = fmt.Sprintf("malformed text at byte %d", syn.ByteOffset)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			e.Tensor, e.Expected, e.Found, e.Hint = key(syn.JSONPointer), "each key once", "it twice", ""
		}
	}
	return e
}

// key spells a JSON pointer as a.b.c.
func key(p jsontext.Pointer) string {
	return clip(strings.Join(slices.Collect(p.Tokens()), "."))
}

// unsafeShardName says why name must not be opened as a file beside the index or below it, "" if it may. The rules are
// those of every platform at once, for an index comes from anywhere.
func unsafeShardName(name string) string {
	base := path.Base(name)
	switch {
	case name == "":
		return "which is empty"
	case strings.ContainsAny(name, `\:`):
		return "which has a separator of another system in it"
	case path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), ".."):
		return "which leads out of the directory"
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "which has control characters in it"
	case len(name) > maxShardName:
		return "which is too long"
	case !strings.HasSuffix(base, ".safetensors") || strings.HasPrefix(base, "."):
		return "which is no .safetensors file"
	}
	return ""
}

// maxShardName is what a file system takes for one component; no known index nests its shards deeper than one folder.
const maxShardName = 255

// Encode returns the file as transformers' save_pretrained writes it (modeling_utils.py, json.dumps with indent 2 and
// sort_keys, non-ASCII escaped), with a newline at the end.
func (ix *Index) Encode() []byte {
	var b bytes.Buffer
	size := 128
	for name, file := range ix.WeightMap {
		size += len(name) + len(file) + len("\n    \"\": \"\",")
	}
	b.Grow(size)
	fmt.Fprintf(&b, "{\n  \"metadata\": {\n    \"total_parameters\": %d,\n    \"total_size\": %d\n  },\n  \"weight_map\": {",
		ix.TotalParameters, ix.TotalSize)
	for i, name := range slices.Sorted(maps.Keys(ix.WeightMap)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		writePythonString(&b, name)
		b.WriteString(": ")
		writePythonString(&b, ix.WeightMap[name])
	}
	if len(ix.WeightMap) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteString("}\n}\n")
	return b.Bytes()
}

// writePythonString is Python's json.dumps of a str with ensure_ascii (CPython Modules/_json.c).
func writePythonString(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < ' ' || r > '~' && r <= 0xffff:
			fmt.Fprintf(b, `\u%04x`, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, hi, lo)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "nothing"
}
