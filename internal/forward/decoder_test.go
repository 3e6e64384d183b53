package forward

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// open opens the shipped Llama.
func open(t testing.TB, opt Options) *Decoder {
	t.Helper()
	src, err := checkpoint.Open("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := weights.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(m, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sequences are some of odd lengths, and an empty one; few where the race detector makes every product slow.
func sequences(vocab int) [][]int32 {
	var out [][]int32
	lengths := []int{37, 1, 0, 19, 90}
	if testing.Short() {
		lengths = []int{3, 1, 0, 7}
	}
	for i, n := range lengths {
		ids := make([]int32, n)
		for j := range ids {
			ids[j] = int32((j*j*7 + i*31 + j) % vocab)
		}
		out = append(out, ids)
	}
	return out
}

func run(t *testing.T, opt Options, seqs [][]int32) (logits []float32, calls []Linear) {
	t.Helper()
	d := open(t, opt)
	ctx := context.Background()
	s, err := d.Start(ctx, seqs)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range d.Layers() {
		before := make([]float32, s.Rows()*d.Width())
		if err := s.Read(before, 0); err != nil {
			t.Fatal(err)
		}
		var rows int
		hook := func(l Linear, in, out linalg.Matrix) error {
			if in.Cols != l.In || out.Cols != l.Out || in.Rows != out.Rows {
				t.Errorf("%s: a hook sees %d x %d and %d x %d", l.Name, in.Rows, in.Cols, out.Rows, out.Cols)
			}
			calls = append(calls, l)
			rows += in.Rows
			return nil
		}
		if err := d.Measure(ctx, i, s, hook); err != nil {
			t.Fatal(err)
		}
		if want := s.Rows() * len(d.Linears(i)); rows != want {
			t.Errorf("layer %d: a hook saw %d rows of inputs, want %d", i, rows, want)
		}
		after := make([]float32, len(before))
		if err := s.Read(after, 0); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(before, after) {
			t.Errorf("layer %d: Measure changed the hidden states", i)
		}
		if err := d.Layer(ctx, i, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	x := make([]float32, s.Rows()*d.Width())
	if err := s.Read(x, 0); err != nil {
		t.Fatal(err)
	}
	logits = make([]float32, s.Rows()*d.Vocab())
	if err := d.Head(ctx, linalg.New(logits, s.Rows(), d.Vocab()), linalg.New(x, s.Rows(), d.Width())); err != nil {
		t.Fatal(err)
	}
	return logits, calls
}

// The same bits for any number of workers and budget, and of a sequence whatever is computed beside it.
func TestSame(t *testing.T) {
	seqs := sequences(1021)
	want, _ := run(t, Options{Jobs: 1}, seqs)
	for _, opt := range []Options{{Jobs: 3}, {Jobs: 2, MaxMemory: 1, Scratch: t.TempDir()}} {
		if got, _ := run(t, opt, seqs); !slices.Equal(got, want) {
			t.Errorf("%+v: other logits", opt)
		}
	}
	last := seqs[len(seqs)-1]
	if got, _ := run(t, Options{}, [][]int32{last}); !slices.Equal(got, want[len(want)-len(got):]) {
		t.Error("a sequence alone has other logits")
	}
	// Nothing that follows a token has a part in its output.
	if got, _ := run(t, Options{}, [][]int32{last[:5]}); !slices.Equal(got, want[len(want)-len(last)*1021:][:len(got)]) {
		t.Error("a shorter sequence has other logits")
	}
}

// A hook's outputs are what Apply gives of its inputs.
func TestApply(t *testing.T) {
	d := open(t, Options{})
	ctx := context.Background()
	s, err := d.Start(ctx, sequences(d.Vocab()))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seen := 0
	err = d.Measure(ctx, 1, s, func(l Linear, in, out linalg.Matrix) error {
		seen++
		y := linalg.New(make([]float32, out.Rows*out.Cols), out.Rows, out.Cols)
		if err := d.Apply(ctx, l, y, in); err != nil {
			return err
		}
		for i := range y.Rows {
			if !slices.Equal(y.Row(i), out.Row(i)) {
				t.Errorf("%s: row %d is another one", l.Name, i)
				break
			}
		}
		return nil
	})
	if err != nil || seen != 7 {
		t.Errorf("%d Linears, error %v", seen, err)
	}
}

func TestStartErrors(t *testing.T) {
	d := open(t, Options{})
	for _, id := range []int32{-1, 1021} {
		if _, err := d.Start(context.Background(), [][]int32{{1}, {2, id}}); err == nil || !strings.Contains(err.Error(), "token 1 of sequence 1 is") {
			t.Errorf("id %d: error %v", id, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Start(ctx, [][]int32{{1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A head that is there is taken, though config.json ties it; a table of embeddings that is not there is the tied head.
func TestTied(t *testing.T) {
	for _, c := range []struct {
		tied        bool
		without     string
		embed, head string // "" where New refuses
	}{
		{true, "", "model.embed_tokens.weight", "lm_head.weight"},
		{true, "lm_head.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
		{true, "model.embed_tokens.weight", "lm_head.weight", "lm_head.weight"},
		{false, "lm_head.weight", "", ""},
	} {
		src, err := checkpoint.Open("../../testdata/llama")
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if c.tied {
			src.Config = []byte(strings.Replace(string(src.Config), `"tie_word_embeddings": false`, `"tie_word_embeddings": true`, 1))
		}
		m, err := weights.Open(src)
		if err != nil {
			t.Fatal(err)
		}
		m.Tensors = slices.DeleteFunc(m.Tensors, func(x weights.Tensor) bool { return x.Name == c.without })
		d, err := New(m, Options{})
		if c.head == "" {
			var in *checkpoint.InputError
			if !errors.As(err, &in) || in.Tensor != "lm_head.weight" {
				t.Errorf("%+v: error %v", c, err)
			}
			continue
		}
		if err != nil || d.embed.Name != c.embed || d.head.Name != c.head {
			t.Errorf("%+v: %v, embeddings %s, head %s", c, err, d.embed.Name, d.head.Name)
		}
	}
}
