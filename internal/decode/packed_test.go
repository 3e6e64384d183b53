package decode

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStoredShape: weight_shape decides, and must be the shape of the words.
func TestStoredShape(t *testing.T) {
	shape := func(dims ...byte) io.ReaderAt {
		b := make([]byte, 8*len(dims))
		for i, d := range dims {
			b[8*i] = d
		}
		return bytes.NewReader(b)
	}
	const config = `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"strategy":"channel"}}}}`
	for _, tt := range []struct {
		rows, cols byte
		want       string // of the error
	}{
		{5, 17, ""}, {5, 24, ""},
		{4, 17, "the shape of a weight whose words are [5 3]"},
		{5, 0, "the shape of a weight whose words are [5 3]"},
		{5, 16, "4 bits per channel (config_groups.g)"},
		{5, 25, "4 bits per channel (config_groups.g)"},
	} {
		tensors := parse("a.weight_packed I32 5 3; a.weight_scale F32 5 1; a.weight_shape I64 2")
		tensors[2].Data = shape(tt.rows, tt.cols)
		s, err := Detect(Source{Config: []byte(config)}, tensors)
		var te *TensorError
		switch {
		case errors.As(err, &te):
			if te.Expected != tt.want {
				t.Errorf("%d x %d: expected %q, want %q", tt.rows, tt.cols, te.Expected, tt.want)
			}
		case err != nil || tt.want != "":
			t.Errorf("%d x %d: %v, want %q", tt.rows, tt.cols, err, tt.want)
		default:
			if diff := cmp.Diff([]int64{int64(tt.rows), int64(tt.cols)}, s.Logical[0].Shape); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestColumnOrder: what is no order of the columns is an error, by Check and by a reader.
func TestColumnOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		index []byte // of 16 columns in 2 groups
		want  string
	}{
		"sorted":         {[]byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1}, ""},
		"another":        {[]byte{1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, ""},
		"a group beyond": {[]byte{2, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, "2 for column 0"},
		"uneven groups":  {[]byte{0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, "9 in group 0"},
	} {
		tensors := parse("a.weight_packed I32 5 2; a.weight_scale F32 5 2; a.weight_g_idx I32 16")
		var b []byte
		for _, g := range tt.index {
			b = append(b, g, 0, 0, 0)
		}
		tensors[2].Data = bytes.NewReader(b)
		s, err := Detect(Source{Config: []byte(packed4)}, tensors)
		if err != nil {
			t.Fatal(err)
		}
		_, read := s.Logical[0].Open().ReadAt(make([]byte, 4), 0)
		for _, err := range []error{s.Check(), read} {
			var te *TensorError
			if errors.As(err, &te) != (tt.want != "") || te != nil && te.Found != tt.want {
				t.Errorf("%s: %v, want %q", name, err, tt.want)
			}
		}
	}
}
