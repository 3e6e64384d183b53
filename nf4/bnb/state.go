package bnb

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nf4kit/nf4kit/nf4"
)

// MaxStateSize bounds the record DecodeState accepts; bitsandbytes' own are about 200 bytes.
const MaxStateSize = 64 << 10

// State is the quant_state record: what bitsandbytes needs besides the tensors to decode a weight.
type State struct {
	Format // but for Storage and Scale, of which the record says nothing

	DType nf4.DType // that the weight decodes to
	Shape [2]int64  // logical, [out, in]; of a stack, all its matrices below each other, [matrices*out, in]
	Stack int64     // matrices of a stack of experts, one parameter of three dimensions; 0 of a matrix

	// Of double quantization.
	NestedBlockSize int     // scales per second-level scale; 0 is written as 256
	NestedOffset    float32 // what bitsandbytes subtracts from the scales before the second level
}

// Size is what the tensors of the weight take, with the record's own block size of the second level.
func (s *State) Size() (Size, error) { return s.size(s.Shape[:], int64(s.nestedBlock())) }

// BitsPerParameter is Format's, with the record's own block size of the second level.
func (s *State) BitsPerParameter() float64 { return s.bits(s.nestedBlock()) }

// Dims is the shape as the record has it: [out, in], or of a stack [matrices, out, in].
func (s *State) Dims() []int64 {
	if s.Stack == 0 {
		return []int64{s.Shape[0], s.Shape[1]}
	}
	return []int64{s.Stack, s.Shape[0] / s.Stack, s.Shape[1]}
}

func (s *State) nestedBlock() int { return cmp.Or(s.NestedBlockSize, NestedBlockSize) }

// StateError is a quant_state record that bitsandbytes would reject or misread.
type StateError struct {
	Field    string // JSON field, "" for the record as a whole
	Expected string
	Found    string
	Effect   string // what bitsandbytes does with such a record
}

func (e *StateError) Error() string {
	var b strings.Builder
	b.WriteString("quant_state")
	if e.Field != "" {
		b.WriteString(" field " + e.Field)
	}
	fmt.Fprintf(&b, ": expected %s, found %s", e.Expected, e.Found)
	if e.Effect != "" {
		b.WriteString(" (" + e.Effect + ")")
	}
	return b.String()
}

// Encode returns the record as exactly StateSize bytes: bitsandbytes' fields in its order and spelling, then
// spaces, which json.loads ignores (NUL bytes it does not). The offset is the float32 widened to float64 in
// Python's repr form, so the text before the padding is byte for byte what bitsandbytes writes.
func (s *State) Encode() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, StateSize)
	b = fmt.Appendf(b, `{"quant_type": "%s", "blocksize": %d, "dtype": "%s", "shape": [`, s.Type, s.Block(), s.DType)
	for i, d := range s.Dims() {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, d, 10)
	}
	b = append(b, ']')
	if !s.NoDoubleQuant {
		offset := float64(s.NestedOffset)
		if math.IsNaN(offset) || math.IsInf(offset, 0) {
			return nil, fmt.Errorf("bnb: nested offset: expected a finite number, found %v", offset)
		}
		b = fmt.Appendf(b, `, "nested_blocksize": %d, "nested_dtype": "float32", "nested_offset": %s`,
			s.nestedBlock(), pythonFloat(offset))
	}
	b = append(b, '}')
	if len(b) > StateSize {
		return nil, fmt.Errorf("bnb: quant_state of shape %v takes %d bytes, the record holds %d", s.Shape, len(b), StateSize)
	}
	return append(b, bytes.Repeat([]byte{' '}, StateSize-len(b))...), nil
}

func (s *State) validate() error {
	switch {
	case s.Type > nf4.FP4:
		return typeError(s.Type.String())
	case !validBlockSize(s.Block()):
		return blockError("blocksize", s.Block())
	case s.DType > nf4.Float16:
		return dtypeError("dtype", s.DType.String())
	}
	if n, err := product(s.Shape[:]); err != nil || n == 0 {
		return &StateError{Field: "shape", Expected: "two positive sizes with a product below 2^63", Found: fmt.Sprint(s.Shape)}
	}
	if s.Stack < 0 || s.Stack > 0 && s.Shape[0]%s.Stack != 0 {
		return &StateError{Field: "shape", Expected: "whole matrices in a stack", Found: fmt.Sprintf("%d rows of %d matrices", s.Shape[0], s.Stack)}
	}
	if !s.NoDoubleQuant && !validBlockSize(s.nestedBlock()) {
		return blockError("nested_blocksize", s.NestedBlockSize)
	}
	return nil
}

// validBlockSize: bitsandbytes/functional.py, dequantize_4bit and dequantize_blockwise.
func validBlockSize(b int) bool { return b >= 32 && b <= 4096 && b&(b-1) == 0 }

func blockError(field string, found int) *StateError {
	return &StateError{Field: field, Expected: "a power of two from 32 to 4096", Found: strconv.Itoa(found),
		Effect: "bitsandbytes raises ValueError when it decodes"}
}

func typeError(found string) *StateError {
	return &StateError{Field: "quant_type", Expected: `"nf4" or "fp4"`, Found: strconv.Quote(found),
		Effect: "bitsandbytes raises ValueError when it decodes"}
}

func dtypeError(field, found string) *StateError {
	e := &StateError{Field: field, Expected: `"bfloat16", "float16" or "float32"`, Found: strconv.Quote(found),
		Effect: "bitsandbytes raises AttributeError on getattr(torch, dtype), or ValueError when it decodes"}
	if strings.HasPrefix(found, "torch.") {
		e.Effect = "bitsandbytes raises AttributeError: the name is looked up in torch without the prefix"
	}
	return e
}

// pythonFloat is Python's repr of a finite float: the shortest digits that read back, an exponent below 1e-4 and
// from 1e16 up, and always a point or an exponent (CPython Python/pystrtod.c, format_float_short with 'r').
func pythonFloat(f float64) string {
	sci := strconv.FormatFloat(f, 'e', -1, 64)
	exp, err := strconv.Atoi(sci[strings.IndexByte(sci, 'e')+1:])
	if err != nil {
		panic("bnb: internal error: exponent of " + sci)
	}
	if f != 0 && (exp < -4 || exp >= 16) {
		return sci
	}
	plain := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return plain
}

// DecodeState parses a quant_state record of any length up to MaxStateSize, padded with JSON white space or not.
// It is as strict as QuantState.from_dict: a field it does not know, a missing one or NUL padding is a *StateError
// that says what bitsandbytes would do. Beyond that it refuses what bitsandbytes loads and nobody can use: a shape that
// is neither a matrix nor a stack of them, dtypes it does not decode to.
func DecodeState(blob []byte) (*State, error) {
	if len(blob) > MaxStateSize {
		return nil, &StateError{Expected: fmt.Sprintf("at most %d bytes", MaxStateSize), Found: fmt.Sprintf("%d bytes", len(blob))}
	}
	if i := bytes.IndexByte(blob, 0); i >= 0 {
		return nil, &StateError{Expected: "JSON padded with spaces", Found: fmt.Sprintf("a NUL byte at offset %d", i),
			Effect: "bitsandbytes raises JSONDecodeError"}
	}
	fields, err := stateFields(blob)
	if err != nil {
		return nil, err
	}
	return stateFromFields(fields)
}

// stateFields splits the record into its members and requires that nothing follows the object.
func stateFields(blob []byte) (map[string]jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(blob))
	malformed := func(err error) error {
		found := "malformed text"
		var syn *jsontext.SyntacticError
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			return &StateError{Expected: "each field once", Found: "a field given twice", Effect: "bitsandbytes takes the last"}
		case errors.As(err, &syn):
			found = fmt.Sprintf("malformed text at byte %d", syn.ByteOffset)
		}
		return &StateError{Expected: "a JSON object", Found: found, Effect: "bitsandbytes raises JSONDecodeError"}
	}
	open, err := dec.ReadToken()
	if err != nil {
		return nil, malformed(err)
	}
	if open.Kind() != '{' {
		return nil, &StateError{Expected: "a JSON object", Found: kindName(open.Kind()), Effect: "bitsandbytes raises an exception"}
	}
	fields := make(map[string]jsontext.Value)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, malformed(err)
		}
		key := name.String() // before ReadValue reuses the token's buffer
		value, err := dec.ReadValue()
		if err != nil {
			return nil, malformed(err)
		}
		fields[key] = value.Clone()
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, malformed(err)
	}
	if rest := bytes.Trim(blob[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, &StateError{Expected: "nothing but spaces after the object", Found: strconv.Quote(string(rest[:min(len(rest), 16)])),
			Effect: "bitsandbytes raises JSONDecodeError"}
	}
	return fields, nil
}

func stateFromFields(fields map[string]jsontext.Value) (*State, error) {
	known := map[string]bool{"quant_type": true, "blocksize": true, "dtype": true, "shape": true,
		"nested_blocksize": false, "nested_dtype": false, "nested_offset": false}
	nested := 0
	for name := range fields {
		required, ok := known[name]
		if !ok {
			return nil, &StateError{Field: strconv.Quote(name), Expected: "only bitsandbytes' own fields", Found: "an unknown one",
				Effect: "bitsandbytes raises a bare AssertionError"}
		}
		if !required {
			nested++
		}
	}
	for _, name := range []string{"quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"} {
		if _, ok := fields[name]; !ok && (known[name] || nested > 0) {
			return nil, &StateError{Field: name, Expected: "a value", Found: "nothing", Effect: "bitsandbytes raises KeyError"}
		}
	}
	s := State{Format: Format{NoDoubleQuant: nested == 0}}
	quantType, err := stringField(fields, "quant_type")
	if err != nil {
		return nil, err
	}
	if s.Type, err = nf4.ParseType(quantType); err != nil {
		return nil, typeError(quantType)
	}
	if s.BlockSize, err = blockField(fields, "blocksize"); err != nil {
		return nil, err
	}
	dtype, err := stringField(fields, "dtype")
	if err != nil {
		return nil, err
	}
	if s.DType, err = nf4.ParseDType(dtype); err != nil {
		return nil, dtypeError("dtype", dtype)
	}
	if s.Shape, s.Stack, err = shapeField(fields["shape"]); err != nil {
		return nil, err
	}
	if nested > 0 {
		if err := s.nested(fields); err != nil {
			return nil, err
		}
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	return &s, nil
}

// nested reads the fields of double quantization.
func (s *State) nested(fields map[string]jsontext.Value) (err error) {
	if s.NestedBlockSize, err = blockField(fields, "nested_blocksize"); err != nil {
		return err
	}
	dtype, err := stringField(fields, "nested_dtype")
	if err != nil {
		return err
	}
	if dtype != "float32" {
		return &StateError{Field: "nested_dtype", Expected: `"float32"`, Found: strconv.Quote(dtype),
			Effect: "bitsandbytes rounds the scales to that dtype, or raises AttributeError"}
	}
	s.NestedOffset, err = offsetField(fields["nested_offset"])
	return err
}

func stringField(fields map[string]jsontext.Value, name string) (string, error) {
	v := fields[name]
	if v.Kind() != '"' {
		return "", &StateError{Field: name, Expected: "a string", Found: kindName(v.Kind())}
	}
	text, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "", &StateError{Field: name, Expected: "a string", Found: "malformed text"}
	}
	return string(text), nil
}

// blockField takes digits only: bitsandbytes hands the value to kernels that want an int, so 64.0 fails there.
func blockField(fields map[string]jsontext.Value, name string) (int, error) {
	v := string(fields[name])
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil {
		return 0, &StateError{Field: name, Expected: "an integer", Found: clip(v)}
	}
	if !validBlockSize(int(n)) {
		return 0, blockError(name, int(n))
	}
	return int(n), nil
}

// shapeField reads the two sizes of a matrix or the three of a stack of experts.
func shapeField(v jsontext.Value) (shape [2]int64, stack int64, err error) {
	malformed := &StateError{Field: "shape", Expected: "two integers", Found: clip(string(v)),
		Effect: "bitsandbytes raises TypeError, or ValueError in matmul_4bit"}
	if v.Kind() != '[' {
		return shape, 0, malformed
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(v))
	if _, err := dec.ReadToken(); err != nil {
		return shape, 0, malformed
	}
	var dims []int64
	for dec.PeekKind() != ']' {
		d, err := dec.ReadValue()
		if err != nil || len(dims) == 3 {
			return shape, 0, malformed
		}
		n, err := strconv.ParseInt(string(d), 10, 64)
		if err != nil {
			return shape, 0, malformed
		}
		dims = append(dims, n)
	}
	switch len(dims) {
	case 2:
		return [2]int64(dims), 0, nil
	case 3:
		rows, err := product(dims[:2])
		if err != nil || dims[0] <= 0 || rows == 0 {
			return shape, 0, &StateError{Field: "shape", Expected: "positive sizes with a product below 2^63", Found: fmt.Sprint(dims)}
		}
		return [2]int64{rows, dims[2]}, dims[0], nil
	}
	return shape, 0, &StateError{Field: "shape", Expected: "two dimensions", Found: fmt.Sprint(dims),
		Effect: "bitsandbytes loads it and raises ValueError in matmul_4bit"}
}

// offsetField reads nested_offset as torch.tensor(float(x)) does: a number or a numeric string, rounded to float32.
func offsetField(v jsontext.Value) (float32, error) {
	text := string(v)
	if v.Kind() == '"' {
		raw, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return 0, &StateError{Field: "nested_offset", Expected: "a number", Found: clip(text)}
		}
		text = strings.TrimSpace(string(raw))
	}
	// Go reads hexadecimal floats, Python's float does not.
	hex := strings.ContainsAny(text, "xXpP")
	f, err := strconv.ParseFloat(text, 64)
	if v.Kind() != '0' && v.Kind() != '"' || hex || err != nil || math.IsNaN(f) || math.IsInf(float64(float32(f)), 0) {
		return 0, &StateError{Field: "nested_offset", Expected: "a finite number", Found: clip(string(v))}
	}
	return float32(f), nil
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

func clip(s string) string {
	const limit = 60
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
