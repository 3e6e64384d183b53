package safetensors

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	upstream "github.com/nlpodyssey/safetensors"
)

// What the reader and the writer share of the format.
const (
	lenSize       = 8           // bytes of the header length, uint64 little-endian
	maxHeaderSize = 100_000_000 // of the JSON with its padding, as the reference has it
	headerAlign   = 8           // the JSON is padded with spaces to a multiple of this
	metadataKey   = "__metadata__"

	maxRank = 64
	// maxInt bounds every number of a header: up to it a JSON number is the
	// same integer to every reader, float64 ones included.
	maxInt = 1 << 53
)

// header is a decoded header: tensors in the order of their bytes.
type header struct {
	metadata map[string]string
	tensors  []*Tensor
	byName   map[string]*Tensor
}

// decodeHeader decodes and checks the JSON of a header, without its length,
// for a file that holds dataSize bytes after it.
func decodeHeader(buf []byte, dataSize int64) (*header, error) {
	d := &headerDecoder{
		buf: buf,
		dec: jsontext.NewDecoder(bytes.NewBuffer(buf), jsontext.AllowDuplicateNames(true)),
		// Entries of published models take 90 to 150 bytes.
		h: &header{byName: make(map[string]*Tensor, len(buf)/128)},
	}
	if err := d.header(); err != nil {
		return nil, err
	}
	h := d.h
	slices.SortFunc(h.tensors, func(a, b *Tensor) int {
		return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size), cmp.Compare(a.Name, b.Name))
	})
	if err := h.place(int64(lenSize+len(buf)), dataSize); err != nil {
		return nil, err
	}
	if err := h.crossCheck(buf); err != nil {
		return nil, err
	}
	return h, nil
}

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

func (d *headerDecoder) header() error {
	if i := invalidUTF8(d.buf); i >= 0 {
		return &FormatError{Offset: lenSize + int64(i), Msg: fmt.Sprintf("header is not UTF-8: found byte %#02x", d.buf[i])}
	}
	// The padding goes behind the JSON, never before it.
	if len(d.buf) == 0 || d.buf[0] != '{' {
		return &FormatError{Offset: lenSize, Msg: fmt.Sprintf("header does not begin with '{': found %s", clip(d.buf, 16))}
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
		return d.errorf("expected only spaces after the header's closing '}'")
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

// place checks sizes and places against each other and against the dataSize
// bytes that follow the header, and makes the offsets absolute.
func (h *header) place(headerSize, dataSize int64) error {
	var end int64
	for i, t := range h.tensors {
		fail := func(format string, args ...any) error {
			return &FormatError{Tensor: t.Name, named: true, Offset: headerSize + t.off, Msg: fmt.Sprintf(format, args...)}
		}
		elems, size, err := sizeOf(t.DType, t.Shape)
		if err != nil {
			return fail("%v", err)
		}
		if size != t.size {
			return fail("%v of shape %v takes %d bytes, data_offsets [%d %d] give it %d", t.DType, t.Shape, size, t.off, t.off+t.size, t.size)
		}
		switch {
		case t.off < end:
			return fail("data_offsets [%d %d]: expected to begin at %d: it overlaps tensor %s", t.off, t.off+t.size, end, quote(h.tensors[i-1].Name))
		case t.off > end:
			return fail("data_offsets [%d %d]: expected to begin at %d: the gap belongs to no tensor", t.off, t.off+t.size, end)
		}
		end += t.size
		if end > dataSize {
			return fail("it ends at byte %d of the file, which has %d: the file is truncated", headerSize+end, headerSize+dataSize)
		}
		t.elems = elems
		t.off += headerSize
	}
	if end < dataSize {
		return &FormatError{Offset: headerSize + end, Msg: fmt.Sprintf("the tensors end at byte %d of the file, which has %d: the rest belongs to no tensor", headerSize+end, headerSize+dataSize)}
	}
	return nil
}

// sizeOf returns the elements and the bytes of a tensor. As in the reference, a
// product that overflows 64 bits is an error even if a later dimension is 0.
func sizeOf(d DType, shape []int64) (elems, size int64, err error) {
	n := uint64(1)
	for _, dim := range shape {
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 {
			return 0, 0, fmt.Errorf("the product of shape %v overflows 64 bits", shape)
		}
		n = lo
	}
	hi, nbits := bits.Mul64(n, uint64(d.Bits()))
	if hi != 0 {
		return 0, 0, fmt.Errorf("%v of shape %v overflows 64 bits", d, shape)
	}
	if nbits%8 != 0 {
		return 0, 0, fmt.Errorf("%v of shape %v takes %d bits, expected whole bytes", d, shape, nbits)
	}
	return int64(n), int64(nbits / 8), nil
}

// crossCheckLimit keeps the second reading of a header to some milliseconds;
// the shards of published models have headers far below it.
const crossCheckLimit = 1 << 20

// crossCheck has a second, independent decoder read the header and compares, so
// that a header which two readers may take differently is refused.
//
// That decoder, nlpodyssey/safetensors, cannot be the one that decides: it
// rejects the nine dtypes that it does not list (all F8, F6, F4 and C64), keeps
// the last of duplicate names without a word, picks its first error by map
// order and names neither tensor nor place, checks offsets only against a
// buffer that holds the whole file, and for 100,000 tensors takes several times
// as long and as much memory (BenchmarkUpstream).
func (h *header) crossCheck(buf []byte) error {
	if len(buf) > crossCheckLimit {
		return nil
	}
	for _, t := range h.tensors {
		if _, err := upstream.ParseDType(t.DType.String()); err != nil {
			return nil
		}
	}
	var m upstream.Metadata
	if err := m.UnmarshalJSON(buf); err != nil {
		return &FormatError{Offset: -1, Msg: fmt.Sprintf("a second decoder refuses the header: %v", err)}
	}
	tensors := m.Tensors()
	base := int64(lenSize + len(buf))
	same := len(tensors) == len(h.tensors) && len(m.Metadata()) == len(h.metadata)
	for k, v := range m.Metadata() {
		w, ok := h.metadata[k]
		same = same && ok && v == w
	}
	if !same {
		return &FormatError{Offset: -1, Msg: "two decoders read different headers"}
	}
	for _, t := range h.tensors {
		u := tensors[t.Name]
		same := u != nil && u.DType.String() == t.DType.String() &&
			u.DataOffsets == [2]uint64{uint64(t.off - base), uint64(t.off - base + t.size)} &&
			slices.EqualFunc(u.Shape, t.Shape, func(a uint64, b int64) bool { return a == uint64(b) })
		if !same {
			return &FormatError{Tensor: t.Name, named: true, Offset: -1, Msg: "two decoders read different entries"}
		}
	}
	return nil
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
