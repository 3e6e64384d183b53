package manifest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The digest of the empty input and of "abc", from the BLAKE3 paper's reference implementation (b3sum 1.5).
const (
	digestEmpty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	digestABC   = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
)

func TestSum(t *testing.T) {
	for in, want := range map[string]string{"": digestEmpty, "abc": digestABC} {
		if got := Sum([]byte(in)).String(); got != want {
			t.Errorf("Sum(%q) = %s, want %s", in, got, want)
		}
		got, err := DigestOf(strings.NewReader(in), int64(len(in)), make([]byte, 2))
		if err != nil || got.String() != want {
			t.Errorf("DigestOf(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
	if _, err := DigestOf(strings.NewReader("abc"), 4, make([]byte, 2)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("DigestOf of a short file: error %v, want io.ErrUnexpectedEOF", err)
	}
}

func sample() *Manifest {
	return &Manifest{
		Tool: "nf4kit 1.2.3", Settings: map[string]string{"type": "nf4", "rule": "a=<b>"},
		Source:  Source{Name: "m", Files: []SourceFile{{"model.safetensors", 123, strings.Repeat("ab", 32)}}},
		Tensors: map[string]Digest{"b": Sum([]byte("b")), "a": Sum(nil)},
		Files:   map[string]Digest{"config.json": Sum([]byte("{}"))},
	}
}

func TestEncodeParse(t *testing.T) {
	for _, m := range []*Manifest{sample(), {}} {
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, again) {
			t.Errorf("encoded again:\n%s", cmp.Diff(string(raw), string(again)))
		}
	}
	raw, _ := sample().Encode()
	got, _ := Parse(raw)
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"empty":        "",
		"array":        "[]",
		"other schema": strings.Replace(string(good), Schema, "nf4kit.manifest/2", 1),
		"other digest": strings.Replace(string(good), digestName, "sha256", 1),
		"short digest": strings.Replace(string(good), digestEmpty, "af13", 1),
		"no hex":       strings.Replace(string(good), digestEmpty, strings.Repeat("z", 64), 1),
		"truncated":    string(good[:len(good)-20]),
	} {
		var e *Error
		if _, err := Parse([]byte(raw)); !errors.As(err, &e) {
			t.Errorf("%s: error %v, want *Error", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	raw, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"schema":"nf4kit.manifest/1","digest":"blake3-256"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw)
		if err != nil {
			return
		}
		out, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("what was encoded does not parse: %v", err)
		}
		two, err := again.Encode()
		if err != nil || !bytes.Equal(out, two) {
			t.Fatalf("not stable: %v\n%s", err, cmp.Diff(string(out), string(two)))
		}
	})
}

func TestRecorder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for range 20 {
		r := NewRecorder()
		r.Add("t", int64(len(data)))
		r.Add("empty", 0)
		type span struct{ lo, hi int }
		var spans []span
		for lo := 0; lo < len(data); {
			hi := min(lo+1+rng.IntN(9000), len(data))
			spans = append(spans, span{lo, hi})
			lo = hi
		}
		rng.Shuffle(len(spans), func(i, j int) { spans[i], spans[j] = spans[j], spans[i] })
		if _, err := r.Digests(); err == nil {
			t.Error("Digests before any byte: no error")
		}
		var wg sync.WaitGroup
		for _, s := range spans {
			wg.Go(func() {
				if err := r.WriteAt("t", data[s.lo:s.hi], int64(s.lo)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := r.Digests()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]Digest{"t": Sum(data), "empty": Sum(nil)}, got); diff != "" {
			t.Fatalf("digests (-want +got):\n%s", diff)
		}
	}
	r := NewRecorder()
	r.Add("t", 10)
	for _, bad := range []struct {
		name string
		n    int
		off  int64
	}{{"t", 11, 0}, {"t", 1, 10}, {"t", 1, -1}, {"u", 1, 0}} {
		if err := r.WriteAt(bad.name, make([]byte, bad.n), bad.off); err == nil {
			t.Errorf("WriteAt(%s, %d bytes, %d): no error", bad.name, bad.n, bad.off)
		}
	}
}
