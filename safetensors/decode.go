package safetensors

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// headerDecoder walks the tokens of a header once. It never skips or buffers a
// value it does not expect, so nesting costs nothing. Duplicate names are found
// here, not by jsontext, because the map of names is needed anyway and the
// error can then name the tensor.
type headerDecoder struct {
	buf     []byte
	dec     *jsontext.Decoder
	h       *header
	tensor  *Tensor // being decoded, for errors
	scratch []byte  // of str

	// Room for tensors and shapes is taken in blocks, as the header yields them:
	// nothing is allocated that its bytes do not stand for.
	tensors []Tensor
	shapes  []int64
}

const (
	tensorBlock = 1024
	shapeBlock  = 4096
)

func newHeaderDecoder(buf []byte) *headerDecoder {
	return &headerDecoder{
		buf: buf,
		dec: jsontext.NewDecoder(bytes.NewBuffer(buf), jsontext.AllowDuplicateNames(true)),
		// Entries of published models take 90 to 150 bytes.
		h: &header{byName: make(map[string]*Tensor, min(len(buf)/128, MaxTensors))},
	}
}

// decode returns what the header says, in its order and unchecked against other
// than itself: offsets count from the end of the header.
func (d *headerDecoder) decode() (*header, error) {
	if err := d.header(); err != nil {
		return nil, err
	}
	return d.h, nil
}

func (d *headerDecoder) header() error {
	if i := invalidUTF8(d.buf); i >= 0 {
		return &FormatError{Offset: lenSize + int64(i), Msg: fmt.Sprintf("header is not UTF-8: found byte %#02x", d.buf[i])}
	}
	if err := d.open('{', "header"); err != nil {
		return err
	}
	seenMetadata := false
	for d.dec.PeekKind() == '"' {
		name, err := d.str()
		if err != nil {
			return err
		}
		if string(name) == metadataKey {
			if seenMetadata {
				return d.errorf("duplicate %s", metadataKey)
			}
			seenMetadata = true
			if err := d.decodeMetadata(); err != nil {
				return err
			}
			continue
		}
		if err := d.decodeTensor(string(name)); err != nil {
			return err
		}
	}
	if err := d.close(); err != nil {
		return err
	}
	switch _, err := d.dec.ReadToken(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return d.syntax(err)
	default:
		return d.errorf("expected only white space after the header's closing '}'")
	}
}

func (d *headerDecoder) decodeMetadata() error {
	if d.dec.PeekKind() == 'n' { // the reference reads null as no metadata
		_, err := d.dec.ReadToken()
		return d.syntax(err)
	}
	if err := d.open('{', metadataKey); err != nil {
		return err
	}
	metadata := make(map[string]string)
	d.h.metadata = metadata
	for d.dec.PeekKind() == '"' {
		b, err := d.str()
		if err != nil {
			return err
		}
		if len(metadata) == maxMetadata {
			return d.errorf("%s has more than %d keys", metadataKey, maxMetadata)
		}
		key := string(b)
		if _, ok := metadata[key]; ok {
			return d.errorf("duplicate key %s in %s", quote(key), metadataKey)
		}
		if k := d.dec.PeekKind(); k != '"' && k != jsontext.KindInvalid {
			return d.errorf("%s: value of key %s: expected a string, found %s", metadataKey, quote(key), kindName(k))
		}
		if b, err = d.str(); err != nil {
			return err
		}
		metadata[key] = string(b)
	}
	return d.close()
}

// Bits of the keys seen in a tensor's entry.
const (
	seenDType = 1 << iota
	seenShape
	seenOffsets
	seenAll = seenDType | seenShape | seenOffsets
)

func (d *headerDecoder) decodeTensor(name string) error {
	if len(d.h.tensors) == MaxTensors {
		return &FormatError{Offset: lenSize + d.dec.InputOffset(), Msg: fmt.Sprintf("the file has more than %d tensors", MaxTensors)}
	}
	if len(d.tensors) == cap(d.tensors) {
		d.tensors = make([]Tensor, 0, min(2*cap(d.tensors)+8, tensorBlock))
	}
	d.tensors = append(d.tensors, Tensor{Name: name})
	t := &d.tensors[len(d.tensors)-1]
	d.tensor = t
	d.h.tensors = append(d.h.tensors, t)
	if d.h.byName[name] = t; len(d.h.byName) < len(d.h.tensors) {
		return d.errorf("duplicate name")
	}

	if err := d.open('{', "entry"); err != nil {
		return err
	}
	var seen, key int
	for d.dec.PeekKind() == '"' {
		b, err := d.str()
		if err != nil {
			return err
		}
		switch string(b) {
		case "dtype":
			key = seenDType
		case "shape":
			key = seenShape
		case "data_offsets":
			key = seenOffsets
		default:
			return d.errorf("unknown key %s: expected dtype, shape and data_offsets", quote(string(b)))
		}
		if seen&key != 0 {
			return d.errorf("duplicate key %s", quote(string(b)))
		}
		seen |= key
		switch key {
		case seenDType:
			err = d.decodeDType(t)
		case seenShape:
			err = d.decodeShape(t)
		case seenOffsets:
			err = d.decodeOffsets(t)
		}
		if err != nil {
			return err
		}
	}
	if err := d.close(); err != nil {
		return err
	}
	if seen != seenAll {
		missing := "data_offsets"
		switch {
		case seen&seenDType == 0:
			missing = "dtype"
		case seen&seenShape == 0:
			missing = "shape"
		}
		return d.errorf("missing key %q", missing)
	}
	d.tensor = nil
	return nil
}

func (d *headerDecoder) decodeDType(t *Tensor) error {
	if k := d.dec.PeekKind(); k != '"' && k != jsontext.KindInvalid {
		return d.errorf("dtype: expected a string, found %s", kindName(k))
	}
	b, err := d.str()
	if err != nil {
		return err
	}
	dt, ok := dtypeByName[string(b)]
	if !ok {
		return &UnsupportedError{Tensor: t.Name, named: true, DType: string(b)}
	}
	t.DType = dt
	return nil
}

func (d *headerDecoder) decodeShape(t *Tensor) error {
	if err := d.open('[', "shape"); err != nil {
		return err
	}
	if cap(d.shapes)-len(d.shapes) < maxRank {
		d.shapes = make([]int64, 0, min(2*cap(d.shapes)+maxRank, shapeBlock))
	}
	begin := len(d.shapes)
	for {
		n, ok, err := d.number("shape")
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if len(d.shapes)-begin == maxRank {
			return d.errorf("shape has more than %d dimensions", maxRank)
		}
		d.shapes = append(d.shapes, n)
	}
	t.Shape = slices.Clip(d.shapes[begin:])
	return d.close()
}

func (d *headerDecoder) decodeOffsets(t *Tensor) error {
	if err := d.open('[', "data_offsets"); err != nil {
		return err
	}
	var v [2]int64
	count := 0
	for {
		n, ok, err := d.number("data_offsets")
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if count == len(v) {
			return d.errorf("data_offsets: expected 2 numbers, found more")
		}
		v[count] = n
		count++
	}
	if err := d.close(); err != nil {
		return err
	}
	if count != len(v) {
		return d.errorf("data_offsets: expected 2 numbers, found %d", count)
	}
	if v[0] > v[1] {
		return d.errorf("data_offsets: begin %d is after end %d", v[0], v[1])
	}
	t.off, t.size = v[0], v[1]-v[0]
	return nil
}

// number reads the next element of an array of sizes; ok is false at its end.
func (d *headerDecoder) number(what string) (n int64, ok bool, err error) {
	switch k := d.dec.PeekKind(); k {
	case '0':
	case ']', jsontext.KindInvalid:
		return 0, false, nil // the caller's close reads on, or finds the error
	default:
		return 0, false, d.errorf("%s: expected an integer, found %s", what, kindName(k))
	}
	v, err := d.dec.ReadValue()
	if err != nil {
		return 0, false, d.syntax(err)
	}
	for _, c := range v {
		switch {
		case c == '-':
			return 0, false, d.errorf("%s: expected an integer from 0 to 2^53, found the negative %s", what, clip(v, 32))
		case c < '0' || c > '9':
			return 0, false, d.errorf("%s: expected an integer from 0 to 2^53 without fraction or exponent, found %s", what, clip(v, 32))
		case n <= maxInt:
			n = n*10 + int64(c-'0')
		}
	}
	if n > maxInt {
		return 0, false, d.errorf("%s: expected an integer from 0 to 2^53, found %s", what, clip(v, 32))
	}
	return n, true, nil
}

// str reads a string, or an object's next name, unescaped. The result is good
// until the next call.
func (d *headerDecoder) str() ([]byte, error) {
	v, err := d.dec.ReadValue()
	if err != nil {
		return nil, d.syntax(err)
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	d.scratch, err = jsontext.AppendUnquote(d.scratch[:0], v)
	if err != nil {
		return nil, d.syntax(err)
	}
	return d.scratch, nil
}

// open reads the opening delimiter k of the value called what.
func (d *headerDecoder) open(k jsontext.Kind, what string) error {
	if found := d.dec.PeekKind(); found != k && found != jsontext.KindInvalid {
		return d.errorf("%s: expected %s, found %s", what, kindName(k), kindName(found))
	}
	_, err := d.dec.ReadToken()
	return d.syntax(err)
}

// close reads a closing delimiter; callers have read all that may come before.
func (d *headerDecoder) close() error {
	_, err := d.dec.ReadToken()
	return d.syntax(err)
}

// errorf reports a fault where the decoder stands.
func (d *headerDecoder) errorf(format string, args ...any) error {
	e := &FormatError{Offset: lenSize + d.dec.InputOffset(), Msg: fmt.Sprintf(format, args...)}
	if d.tensor != nil {
		e.Tensor, e.named = d.tensor.Name, true
	}
	return e
}

// syntax turns an error of the JSON decoder into ours; nil stays nil.
func (d *headerDecoder) syntax(err error) error {
	if err == nil {
		return nil
	}
	// By text, not wrapped: what the JSON decoder's errors are is not for callers
	// to see, and its unexpected end is not that of the file.
	e := &FormatError{Offset: lenSize + d.dec.InputOffset(), Msg: fmt.Sprintf("header is not valid JSON: %v", err)}
	if se, ok := err.(*jsontext.SyntacticError); ok {
		e.Offset, e.Msg = lenSize+se.ByteOffset, fmt.Sprintf("header is not valid JSON: %v", se.Err)
	}
	if d.tensor != nil {
		e.Tensor, e.named = d.tensor.Name, true
	}
	return e
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '{', '}':
		return "an object"
	case '[', ']':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	}
	return "nothing"
}

// clip quotes at most n bytes of a value for an error text.
func clip(v []byte, n int) string {
	if len(v) <= n {
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprintf("%q...", v[:n])
}

// invalidUTF8 returns the position of the first byte that is not UTF-8, or -1.
func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}
