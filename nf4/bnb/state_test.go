package bnb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/nf4"
)

// goldenState is a record that bitsandbytes wrote (testdata/make_goldens.py).
type goldenState struct {
	QuantType  string  `json:"quant_type"`
	BlockSize  int     `json:"blocksize"`
	DType      string  `json:"dtype"`
	Shape      []int64 `json:"shape"`
	OffsetBits *uint32 `json:"offset_bits"`
	Blob       string  `json:"blob"`
	Key        string  `json:"key"`
}

func (g goldenState) state(t *testing.T) *State {
	t.Helper()
	quantType, err := nf4.ParseType(g.QuantType)
	if err != nil {
		t.Fatal(err)
	}
	dtype, err := nf4.ParseDType(g.DType)
	if err != nil {
		t.Fatal(err)
	}
	s := &State{Format: Format{Type: quantType, BlockSize: g.BlockSize, NoDoubleQuant: g.OffsetBits == nil}, DType: dtype, Shape: [2]int64(g.Shape)}
	if g.OffsetBits != nil {
		s.NestedBlockSize, s.NestedOffset = NestedBlockSize, math.Float32frombits(*g.OffsetBits)
	}
	return s
}

func readGolden(t testing.TB, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func TestStateGolden(t *testing.T) {
	var goldens []goldenState
	readGolden(t, "states.json", &goldens)
	if len(goldens) < 100 {
		t.Fatalf("%d goldens", len(goldens))
	}
	for _, g := range goldens {
		want := g.state(t)
		got, err := want.Encode()
		if err != nil {
			t.Errorf("%s: encode: %v", g.Blob, err)
			continue
		}
		if padded := g.Blob + strings.Repeat(" ", StateSize-len(g.Blob)); string(got) != padded {
			t.Errorf("encode (-want +got):\n%s", cmp.Diff(padded, string(got)))
		}
		for _, text := range []string{g.Blob, string(got)} {
			back, err := DecodeState([]byte(text))
			if err != nil {
				t.Errorf("decode %s: %v", text, err)
				continue
			}
			if diff := cmp.Diff(want, back); diff != "" || math.Float32bits(back.NestedOffset) != math.Float32bits(want.NestedOffset) {
				t.Errorf("decode %s (-want +got):\n%s", text, diff)
			}
		}
		if key := want.Names("w").QuantState; key != "w."+g.Key {
			t.Errorf("name %s, want w.%s", key, g.Key)
		}
	}
}

// TestStateRejects gives DecodeState what QuantState.from_dict was given. What that refuses must be refused here,
// and what it takes must be read.
func TestStateRejects(t *testing.T) {
	var goldens []struct {
		Name, Raises string
		BlobHex      string `json:"blob_hex"`
	}
	readGolden(t, "rejects.json", &goldens)
	for _, g := range goldens {
		blob, err := hex.DecodeString(g.BlobHex)
		if err != nil {
			t.Fatal(err)
		}
		s, err := DecodeState(blob)
		switch {
		case g.Raises != "" && err == nil:
			t.Errorf("%s: bitsandbytes raises %s, decoded as %+v", g.Name, g.Raises, s)
		case g.Raises == "" && err != nil:
			t.Errorf("%s: bitsandbytes takes it: %v", g.Name, err)
		case err != nil:
			var se *StateError
			if !errors.As(err, &se) || se.Expected == "" || se.Found == "" {
				t.Errorf("%s: error %#v is no complete *StateError", g.Name, err)
			}
		}
	}
}

func TestDecodeStateErrors(t *testing.T) {
	const good = `"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]`
	const nested = `, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25`
	for _, c := range []struct{ name, blob, want string }{
		{"unknown field", `{` + good + `, "tool": 1}`,
			`quant_state field "tool": expected only bitsandbytes' own fields, found an unknown one (bitsandbytes raises a bare AssertionError)`},
		{"missing field", `{"quant_type": "nf4"}`, `quant_state field blocksize: expected a value, found nothing (bitsandbytes raises KeyError)`},
		{"half nested", `{` + good + `, "nested_dtype": "float32"}`,
			`quant_state field nested_blocksize: expected a value, found nothing (bitsandbytes raises KeyError)`},
		{"NUL", `{` + good + "}\x00\x00",
			`quant_state: expected JSON padded with spaces, found a NUL byte at offset 77 (bitsandbytes raises JSONDecodeError)`},
		{"torch prefix", `{"quant_type": "nf4", "blocksize": 64, "dtype": "torch.bfloat16", "shape": [8, 16]}`,
			`quant_state field dtype: expected "bfloat16", "float16" or "float32", found "torch.bfloat16" (bitsandbytes raises AttributeError: the name is looked up in torch without the prefix)`},
		{"four dimensions", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16, 2, 2]}`,
			`quant_state field shape: expected two integers, found [8, 16, 2, 2] (bitsandbytes raises TypeError, or ValueError in matmul_4bit)`},
		{"one dimension", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8]}`,
			`quant_state field shape: expected two dimensions, found [8] (bitsandbytes loads it and raises ValueError in matmul_4bit)`},
		{"null shape", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": null}`,
			`quant_state field shape: expected two integers, found null (bitsandbytes raises TypeError, or ValueError in matmul_4bit)`},
		{"negative size", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [-8, 16]}`,
			`quant_state field shape: expected two positive sizes with a product below 2^63, found [-8 16]`},
		{"overflowing shape", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4294967296, 4294967296]}`,
			`quant_state field shape: expected two positive sizes with a product below 2^63, found [4294967296 4294967296]`},
		{"no elements", `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [0, 16]}`,
			`quant_state field shape: expected two positive sizes with a product below 2^63, found [0 16]`},
		{"block size", `{"quant_type": "nf4", "blocksize": 65, "dtype": "bfloat16", "shape": [8, 16]}`,
			`quant_state field blocksize: expected a power of two from 32 to 4096, found 65 (bitsandbytes raises ValueError when it decodes)`},
		{"block size as float", `{"quant_type": "nf4", "blocksize": 64.0, "dtype": "bfloat16", "shape": [8, 16]}`,
			`quant_state field blocksize: expected an integer, found 64.0`},
		{"quant type", `{"quant_type": "int4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}`,
			`quant_state field quant_type: expected "nf4" or "fp4", found "int4" (bitsandbytes raises ValueError when it decodes)`},
		{"quant type as number", `{"quant_type": 4, "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}`,
			`quant_state field quant_type: expected a string, found a number`},
		{"nested dtype", `{` + good + strings.Replace(nested, "float32", "float16", 1) + `}`,
			`quant_state field nested_dtype: expected "float32", found "float16" (bitsandbytes rounds the scales to that dtype, or raises AttributeError)`},
		{"nested block size", `{` + good + strings.Replace(nested, "256", "0", 1) + `}`,
			`quant_state field nested_blocksize: expected a power of two from 32 to 4096, found 0 (bitsandbytes raises ValueError when it decodes)`},
		{"infinite offset", `{` + good + strings.Replace(nested, "0.25", "1e39", 1) + `}`,
			`quant_state field nested_offset: expected a finite number, found 1e39`},
		{"hexadecimal offset", `{` + good + strings.Replace(nested, "0.25", `"0x1p-2"`, 1) + `}`,
			`quant_state field nested_offset: expected a finite number, found "0x1p-2"`},
		{"field twice", `{` + good + `, "blocksize": 64}`,
			`quant_state: expected each field once, found a field given twice (bitsandbytes takes the last)`},
		{"array", `[1]`, `quant_state: expected a JSON object, found an array (bitsandbytes raises an exception)`},
		{"cut short", `{` + good, `quant_state: expected a JSON object, found malformed text at byte 76 (bitsandbytes raises JSONDecodeError)`},
		{"text after", `{` + good + `} {}`,
			`quant_state: expected nothing but spaces after the object, found "{}" (bitsandbytes raises JSONDecodeError)`},
		{"too long", strings.Repeat(" ", MaxStateSize+1), `quant_state: expected at most 65536 bytes, found 65537 bytes`},
		{"deep", strings.Repeat("[", 20000), `quant_state: expected a JSON object, found an array (bitsandbytes raises an exception)`},
		{"deep value", `{"shape":` + strings.Repeat("[", 20000), `quant_state: expected a JSON object, found malformed text at byte 10008 (bitsandbytes raises JSONDecodeError)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := DecodeState([]byte(c.blob))
			if err == nil {
				t.Fatalf("decoded as %+v", s)
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStack: a stack of experts has three sizes in its record, and is one matrix of all its rows.
func TestStack(t *testing.T) {
	s := &State{DType: nf4.BFloat16, Shape: [2]int64{24, 16}, Stack: 3}
	blob, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(blob), `"shape": [3, 8, 16]`) {
		t.Errorf("record %s", blob)
	}
	got, err := DecodeState(blob)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{3, 8, 16}, got.Dims()); diff != "" || got.Shape != s.Shape {
		t.Errorf("shape %v, dimensions (-want +got):\n%s", got.Shape, diff)
	}
	for _, bad := range []string{"[0, 8, 16]", "[3, 0, 16]", "[-1, -8, 16]", "[4294967296, 4294967296, 1]"} {
		if s, err := DecodeState([]byte(`{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": ` + bad + `}`)); err == nil {
			t.Errorf("%s decodes to %v", bad, s.Dims())
		}
	}
	s.Stack = 5
	if _, err := s.Encode(); err == nil {
		t.Error("24 rows of 5 matrices are encoded")
	}
}

func TestEncodeErrors(t *testing.T) {
	good := State{DType: nf4.BFloat16, Shape: [2]int64{8, 16}}
	for _, c := range []struct {
		name   string
		change func(*State)
		want   string
	}{
		{"type", func(s *State) { s.Type = 7 }, "quant_type"},
		{"block size", func(s *State) { s.BlockSize = 48 }, "blocksize"},
		{"dtype", func(s *State) { s.DType = 3 }, "dtype"},
		{"shape", func(s *State) { s.Shape[1] = 0 }, "shape"},
		{"nested block size", func(s *State) { s.NestedBlockSize = 100 }, "nested_blocksize"},
		{"NaN offset", func(s *State) { s.NestedOffset = float32(math.NaN()) }, "nested offset: expected a finite number, found NaN"},
		{"infinite offset", func(s *State) { s.NestedOffset = float32(math.Inf(-1)) }, "nested offset: expected a finite number, found -Inf"},
	} {
		s := good
		c.change(&s)
		if _, err := s.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
	// The longest record there can be.
	s := State{Format: Format{BlockSize: 4096}, DType: nf4.BFloat16, Shape: [2]int64{1, math.MaxInt64},
		NestedBlockSize: 4096, NestedOffset: -1.1754945e-38}
	if b, err := s.Encode(); err != nil || len(b) != StateSize {
		t.Errorf("longest record: %d bytes, %v", len(b), err)
	}
}

func TestPythonFloatReadsBack(t *testing.T) {
	for bits := uint32(0); bits < 0x7f800000; bits += 0x7fff { // 65,000 floats of every exponent
		for _, sign := range []uint32{0, 1 << 31} {
			f := math.Float32frombits(bits | sign)
			text := pythonFloat(float64(f))
			back, err := strconv.ParseFloat(text, 64)
			if err != nil || math.Float32bits(float32(back)) != bits|sign || !strings.ContainsAny(text, ".e") {
				t.Fatalf("%#x is %s, which reads as %v (%v)", bits|sign, text, back, err)
			}
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	var goldens []goldenState
	readGolden(f, "states.json", &goldens)
	for _, g := range goldens[len(goldens)-24:] {
		f.Add([]byte(g.Blob))
	}
	var rejects []struct {
		BlobHex string `json:"blob_hex"`
	}
	readGolden(f, "rejects.json", &rejects)
	for _, g := range rejects {
		blob, _ := hex.DecodeString(g.BlobHex)
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		s, err := DecodeState(blob)
		if err != nil {
			var se *StateError
			if !errors.As(err, &se) {
				t.Fatalf("error %v is no *StateError", err)
			}
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatalf("decoded %+v does not encode: %v", s, err)
		}
		back, err := DecodeState(again)
		if err != nil {
			t.Fatalf("encoded %s does not decode: %v", again, err)
		}
		if diff := cmp.Diff(s, back); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
		if len(again) != StateSize || bytes.IndexByte(again, 0) >= 0 {
			t.Fatalf("encoded as %q", again)
		}
	})
}
