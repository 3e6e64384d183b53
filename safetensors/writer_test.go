package safetensors

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

func newLayout(t *testing.T, entries ...Entry) *Layout {
	t.Helper()
	l, err := NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestWriter writes pieces in random order from several goroutines; every byte
// of the file must be written exactly once, the header included.
func TestWriter(t *testing.T) {
	l := newLayout(t, Entry{"a", F32, []int64{100, 7}}, Entry{"b", U8, []int64{9999}}, Entry{"e", I8, []int64{0}}, Entry{"s", BF16, nil})
	want := make([]byte, l.Size())
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	copy(want, l.Header())

	type piece struct {
		p    Placement
		a, b int64
	}
	var pieces []piece
	for _, p := range l.Tensors() {
		for a := int64(0); a < p.Size; {
			b := min(a+1+rng.Int64N(40), p.Size)
			pieces = append(pieces, piece{p, a, b})
			a = b
		}
	}
	rng.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })

	out := newBuffer(l.Size())
	w, err := NewWriter(out, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteAt("e", nil, 0); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := i; j < len(pieces); j += 4 {
				x := pieces[j]
				if err := w.WriteAt(x.p.Name, want[x.p.Offset+x.a:x.p.Offset+x.b], x.a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.b, want) {
		t.Error("wrong bytes")
	}
	for i, n := range out.writes {
		if n != 1 {
			t.Fatalf("byte %d was written %d times", i, n)
		}
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := w.WriteAt("e", nil, 0); err != errClosed {
		t.Errorf("write after Close: %v", err)
	}
}

func TestWriterEmpty(t *testing.T) {
	l := newLayout(t)
	out := newBuffer(l.Size())
	w, err := NewWriter(out, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if r, err := newReader(out.b); err != nil || len(r.Tensors()) != 0 {
		t.Errorf("reading it: %v", err)
	}
}

// TestWriterErrors holds misuse to an error that names the tensor and sticks,
// and that keeps the bytes from the file.
func TestWriterErrors(t *testing.T) {
	tests := []struct {
		name   string
		tensor string
		off, n int64
		want   string
	}{
		{"unknown", "c", 0, 1, `tensor "c": not in the layout`},
		{"negative offset", "a", -1, 1, `tensor "a": 1 bytes at -1 are outside its 12 bytes`},
		{"beyond", "a", 13, 0, `tensor "a": 0 bytes at 13 are outside its 12 bytes`},
		{"across the end", "a", 10, 3, `tensor "a": 3 bytes at 10 are outside its 12 bytes`},
		{"far beyond", "a", 1 << 62, 1, `tensor "a": 1 bytes at 4611686018427387904 are outside its 12 bytes`},
		{"same", "a", 4, 4, `tensor "a": bytes 4 to 8 were written before`},
		{"left", "a", 2, 3, `tensor "a": bytes 4 to 5 were written before`},
		{"right", "a", 7, 3, `tensor "a": bytes 7 to 8 were written before`},
		{"inside", "a", 5, 2, `tensor "a": bytes 5 to 7 were written before`},
		{"around", "a", 0, 12, `tensor "a": bytes 4 to 8 were written before`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLayout(t, Entry{"a", U8, []int64{12}}, Entry{"b", U8, []int64{3}})
			out := newBuffer(l.Size())
			w, err := NewWriter(out, l)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.WriteAt("a", make([]byte, 4), 4); err != nil {
				t.Fatal(err)
			}
			err = w.WriteAt(tt.tensor, make([]byte, tt.n), tt.off)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
			written := 0
			for _, n := range out.writes[len(l.Header()):] {
				written += int(n)
			}
			if written != 4 {
				t.Errorf("%d bytes were written, want the 4 of before", written)
			}
			if again := w.WriteAt("b", make([]byte, 3), 0); again != err {
				t.Errorf("the next WriteAt gives %v, want the same error", again)
			}
			if again := w.Close(); again != err {
				t.Errorf("Close gives %v, want the same error", again)
			}
		})
	}
}

func TestWriterMissing(t *testing.T) {
	entries := []Entry{{"a", U8, []int64{4}}, {"b", U8, []int64{0}}, {"c", U8, []int64{4}}, {"d", U8, []int64{4}}}
	type write struct {
		tensor string
		off, n int
	}
	tests := []struct {
		name   string
		writes []write
		want   string
	}{
		{"all", nil, `tensor "a": bytes 0 to 4 of 4 were never written`},
		{"first byte", []write{{"a", 1, 3}, {"c", 0, 4}, {"d", 0, 4}}, `tensor "a": bytes 0 to 1 of 4 were never written`},
		{"last byte", []write{{"a", 0, 4}, {"c", 0, 4}, {"d", 0, 3}}, `tensor "d": bytes 3 to 4 of 4 were never written`},
		{"middle", []write{{"a", 0, 4}, {"c", 0, 1}, {"c", 3, 1}, {"d", 0, 4}}, `tensor "c": bytes 1 to 3 of 4 were never written`},
		{"after an empty one", []write{{"a", 0, 4}, {"d", 0, 4}}, `tensor "c": bytes 0 to 4 of 4 were never written`},
		{"across two", []write{{"a", 0, 4}, {"c", 0, 2}, {"d", 2, 2}}, `tensor "c": bytes 2 to 4 of 4 were never written`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLayout(t, entries...)
			w, err := NewWriter(newBuffer(l.Size()), l)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range tt.writes {
				if err := w.WriteAt(x.tensor, make([]byte, x.n), int64(x.off)); err != nil {
					t.Fatal(err)
				}
			}
			err = w.Close()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
			if again := w.Close(); again != err {
				t.Errorf("second Close gives %v, want the same error", again)
			}
		})
	}
}

// writerAt fails or stops short at its n-th call.
type writerAt struct {
	mu    sync.Mutex
	n     int
	short int
	err   error
}

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 {
		return len(p) - w.short, w.err
	}
	return len(p), nil
}

func TestWriterDestination(t *testing.T) {
	full := errors.New("disk full")
	l := newLayout(t, Entry{"a", U8, []int64{4}}, Entry{"b", U8, []int64{4}})
	for _, tt := range []struct {
		short int
		err   error
		want  error
	}{{0, full, full}, {1, full, full}, {1, nil, io.ErrShortWrite}} {
		if _, err := NewWriter(&writerAt{n: 1, short: tt.short, err: tt.err}, l); !errors.Is(err, tt.want) {
			t.Errorf("header: got error %v, want %v", err, tt.want)
		}
		w, err := NewWriter(&writerAt{n: 3, short: tt.short, err: tt.err}, l)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteAt("a", make([]byte, 4), 0); err != nil {
			t.Fatal(err)
		}
		err = w.WriteAt("b", make([]byte, 4), 0)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), `tensor "b"`) {
			t.Errorf("got error %v, want %v", err, tt.want)
		}
		if again := w.Close(); again != err {
			t.Errorf("Close gives %v, want the same error", again)
		}
	}
}

// gate is a destination whose writes wait, after the header.
type gate struct {
	enter, leave chan struct{}
}

func (g *gate) WriteAt(p []byte, off int64) (int, error) {
	if off > 0 {
		g.enter <- struct{}{}
		<-g.leave
	}
	return len(p), nil
}

// TestWriterCloseEarly closes while a write is under way: the file must not
// pass as whole, though its last bytes are promised.
func TestWriterCloseEarly(t *testing.T) {
	l := newLayout(t, Entry{"a", U8, []int64{4}})
	g := &gate{make(chan struct{}), make(chan struct{})}
	w, err := NewWriter(g, l)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- w.WriteAt("a", make([]byte, 4), 0) }()
	<-g.enter
	err = w.Close()
	if err == nil || !strings.Contains(err.Error(), "1 calls of WriteAt have not returned") {
		t.Errorf("got error %v", err)
	}
	close(g.leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if again := w.Close(); again != err {
		t.Errorf("second Close gives %v, want the same error", again)
	}
}

// TestWriterOverlapRace has many goroutines write the same bytes: one wins.
func TestWriterOverlapRace(t *testing.T) {
	l := newLayout(t, Entry{"a", U8, []int64{64}})
	out := newBuffer(l.Size())
	w, err := NewWriter(out, l)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		wg.Go(func() {
			if w.WriteAt("a", make([]byte, 64), 0) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if won != 1 || out.writes[len(out.writes)-1] != 1 {
		t.Errorf("%d writes succeeded, the last byte was written %d times", won, out.writes[len(out.writes)-1])
	}
	if w.Close() == nil {
		t.Error("Close succeeds after overlapping writes")
	}
}
