package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/safetensors"
)

// resumable is a bare file of which a plan has many weights files, and what was told of runs of it.
type resumable struct {
	t    *testing.T
	src  string
	dst  string
	told []Continued
}

const weightsOf = 5 // weights files, each of a quantized tensor and a kept one

func newResumable(t *testing.T) *resumable {
	dir := t.TempDir()
	r := &resumable{t: t, src: filepath.Join(dir, "weights.safetensors"), dst: filepath.Join(dir, "out")}
	var list []testTensor
	for i := range weightsOf {
		list = append(list,
			testTensor{name: fmt.Sprintf("layers.%d.mlp.up_proj.weight", i), dtype: safetensors.BF16, shape: []int64{64, 160}},
			testTensor{name: fmt.Sprintf("layers.%d.norm.weight", i), dtype: safetensors.BF16, shape: []int64{16}})
	}
	writeTensors(t, r.src, append(list, testTensor{name: "none.weight", dtype: safetensors.BF16, shape: []int64{0, 4}}), 1)
	return r
}

// run writes the plan as far as change lets it: it may change everything before, and gets the context's end.
func (r *resumable) run(change func(opt *Options, w *WriteOptions, stop func())) (*Outcome, *manifest.Manifest, error) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	defer stop()
	src := open(r.t, r.src)
	opt := Options{MaxShardSize: 8000}
	w := WriteOptions{Execution: Execution{Jobs: 1}, Manifest: &manifest.Manifest{Tool: "nf4kit test", Source: manifest.SourceOf(src)},
		Resume: &Resume{Tool: "nf4kit test", Command: "convert", Settings: map[string]string{}, Begin: func(c Continued) { r.told = append(r.told, c) }}}
	if change != nil {
		change(&opt, &w, stop)
	}
	p, err := NewPlan(src, opt)
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := p.Write(ctx, r.dst, w)
	return out, w.Manifest, err
}

// again is the same source with another destination.
func (r *resumable) again(t *testing.T) *resumable {
	return &resumable{t: t, src: r.src, dst: filepath.Join(t.TempDir(), "out")}
}

func (r *resumable) staging() string { return r.dst + ".nf4kit-staging" }

// stopped is a run that ends when some of its files are finished.
func (r *resumable) stopped() {
	r.t.Helper()
	_, _, err := r.run(func(_ *Options, w *WriteOptions, stop func()) {
		w.Progress = func(string, int64) {
			if len(r.finished()) >= 2 {
				stop()
			}
		}
	})
	var u *UnfinishedError
	if !errors.As(err, &u) || !errors.Is(err, context.Canceled) || u.Files < 2 || u.Files >= weightsOf || u.Of != weightsOf || u.Staging != r.staging() {
		r.t.Fatalf("stopped: %#v", err)
	}
	if u.Files != len(r.finished()) {
		r.t.Fatalf("%d files, of %d told", len(r.finished()), u.Files)
	}
}

func (r *resumable) finished() []string {
	list, err := filepath.Glob(filepath.Join(r.staging(), "*.safetensors"))
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

func (r *resumable) journal() string {
	list, err := filepath.Glob(filepath.Join(r.staging(), ".nf4kit-journal", "*.jsonl"))
	if err != nil || len(list) != 1 {
		r.t.Fatalf("journal: %v %v", list, err)
	}
	return list[0]
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(raw)
	}
	return out
}

// whole is what an undisturbed run gives; dst is gone again.
func (r *resumable) whole() (files map[string]string, results []Result) {
	r.t.Helper()
	out, _, err := r.run(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	files = contents(r.t, r.dst)
	if err := os.RemoveAll(r.dst); err != nil {
		r.t.Fatal(err)
	}
	r.told = nil
	return files, out.Results
}

func (r *resumable) mustEqual(files map[string]string, results []Result, out *Outcome) {
	r.t.Helper()
	if diff := cmp.Diff(results, out.Results); diff != "" {
		r.t.Errorf("figures (-want +got):\n%s", diff)
	}
	got := contents(r.t, r.dst)
	for name := range files {
		if files[name] != got[name] {
			r.t.Errorf("%s differs", name)
		}
	}
	if len(got) != len(files) {
		r.t.Errorf("%d files, want %d", len(got), len(files))
	}
	if left, _ := filepath.Glob(r.dst + ".*"); len(left) > 0 {
		r.t.Errorf("left behind: %v", left)
	}
}

func edit(t *testing.T, name string, f func(raw []byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, f(raw), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(raw []byte) []byte {
		if at < 0 {
			at += len(raw)
		}
		raw[at] ^= 4
		return raw
	}
}

// TestResume damages what a stopped run has left: a run that goes on notices, and gives the same as one undisturbed.
func TestResume(t *testing.T) {
	base := newResumable(t)
	files, results := base.whole()
	for _, c := range []struct {
		name    string
		damage  func(r *resumable)
		lost    int    // files that are not kept
		redone  string // in Continued
		damaged string
	}{
		{name: "nothing"},
		{name: "a bit of a tensor", lost: 1, redone: `SECOND: tensor "layers.NUMBER.mlp.up_proj.weight": expected digest `,
			damage: func(r *resumable) { edit(r.t, r.finished()[1], flip(-2000)) }},
		{name: "a bit of the header", lost: 1, redone: "FIRST: its header is not the one that was written",
			damage: func(r *resumable) { edit(r.t, r.finished()[0], flip(20)) }},
		{name: "a shorter file", lost: 1, redone: "FIRST: expected 7372 bytes, found 100",
			damage: func(r *resumable) { edit(r.t, r.finished()[0], func(raw []byte) []byte { return raw[:100] }) }},
		{name: "a file that is gone", lost: 1, redone: "SECOND: it is not there",
			damage: func(r *resumable) { os.Remove(r.finished()[1]) }},
		{name: "a directory in its place", lost: 1, redone: "SECOND: SECOND: expected a regular file, found a directory",
			damage: func(r *resumable) { name := r.finished()[1]; os.Remove(name); os.Mkdir(name, 0o777) }},
		{name: "a torn record", lost: 1, damaged: "the last record is torn, and left out",
			damage: func(r *resumable) {
				edit(r.t, r.journal(), func(raw []byte) []byte { return raw[:len(raw)-20] })
			}},
		{name: "a bit of a record", lost: 1, damaged: "1 records do not bear their checksums, and are left out",
			damage: func(r *resumable) { edit(r.t, r.journal(), flip(-2000)) }},
		{name: "a bit of the first record", damaged: "1 records do not bear their checksums, and are left out",
			damage: func(r *resumable) { edit(r.t, r.journal(), flip(30)) }},
		{name: "the line break between two", lost: 1, damaged: "1 records do not bear their checksums, and are left out",
			damage: func(r *resumable) {
				edit(r.t, r.journal(), func(raw []byte) []byte {
					at := bytes.IndexByte(raw, '\n') + 1
					return flip(at + bytes.IndexByte(raw[at:], '\n'))(raw)
				})
			} /* the file before and the one behind it */},
		{name: "the journal", lost: 99, damage: func(r *resumable) { os.RemoveAll(filepath.Dir(r.journal())) }},
		{name: "an empty journal", lost: 99, damage: func(r *resumable) { edit(r.t, r.journal(), func([]byte) []byte { return nil }) }},
		{name: "what does not belong there", damage: func(r *resumable) {
			for _, name := range []string{"config.json", "x/y/z", ".nf4kit-partial/run-1/1", "model-00005-of-00005.safetensors"} {
				name = filepath.Join(r.staging(), name)
				os.MkdirAll(filepath.Dir(name), 0o777)
				os.WriteFile(name, []byte("stale"), 0o666)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait for the disk
			r := base.again(t)
			r.stopped()
			kept := len(r.finished())
			// Which files are finished first is the disk's choice.
			first, second := filepath.Base(r.finished()[0]), filepath.Base(r.finished()[1])
			var number int
			if _, err := fmt.Sscanf(second, "model-%d-", &number); err != nil {
				t.Fatal(err)
			}
			redone := strings.NewReplacer("FIRST", first, "SECOND", second, "NUMBER", fmt.Sprint(number-1)).Replace(c.redone)
			if c.damage != nil {
				c.damage(r)
			}
			r.told = nil
			out, _, err := r.run(nil)
			if err != nil {
				t.Fatal(err)
			}
			r.mustEqual(files, results, out)
			told := r.told[0]
			lost := min(c.lost, kept)
			if strings.Contains(c.name, "between two") {
				lost = 2
			}
			if told.Files != kept-lost || told.Of != weightsOf {
				t.Errorf("told of %d of %d files, want %d of %d", told.Files, told.Of, kept-lost, weightsOf)
			}
			for _, w := range []struct {
				got  []string
				want string
			}{{told.Redone, redone}, {told.Damaged, c.damaged}} {
				if (w.want == "") != (len(w.got) == 0) || len(w.got) > 0 && (len(w.got) != 1 || !strings.Contains(w.got[0], w.want)) {
					t.Errorf("told %q, want %q", w.got, w.want)
				}
			}
		})
	}
}

// TestResumeRefuses: another source or other settings do not go on with what is there, and leave it alone.
func TestResumeRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *resumable, opt *Options, w *WriteOptions)
		want   string
	}{
		{"setting", func(_ *resumable, opt *Options, w *WriteOptions) {
			opt.Spec.BlockSize = 32
			w.Resume.Settings["block-size"] = "32"
		}, `--block-size was not given, is "32"`},
		{"tool", func(_ *resumable, _ *Options, w *WriteOptions) { w.Resume.Tool = "nf4kit 9" }, "it was begun by nf4kit test, this is nf4kit 9"},
		{"command", func(_ *resumable, _ *Options, w *WriteOptions) { w.Resume.Command = "dequantize" }, "it is of convert, this is dequantize"},
		{"plan", func(_ *resumable, opt *Options, w *WriteOptions) {
			opt.MaxShardSize = 9000
			opt.Spec.NoDoubleQuant = true
		}, "the plan is another one"},
		{"time", func(r *resumable, _ *Options, _ *WriteOptions) {
			if err := os.Chtimes(r.src, time.Time{}, time.Unix(1e9, 0)); err != nil {
				r.t.Fatal(err)
			}
		}, "the source has changed: weights.safetensors was changed 20"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait for the disk
			r := newResumable(t)
			r.stopped()
			before := r.finished()
			_, _, err := r.run(func(opt *Options, w *WriteOptions, _ func()) { c.change(r, opt, w) })
			var refused *ResumeError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || refused.Staging != r.staging() || refused.Files != len(before) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if diff := cmp.Diff(before, r.finished()); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
			if _, _, err := r.run(func(opt *Options, w *WriteOptions, _ func()) {
				c.change(r, opt, w)
				w.Resume.Restart = true
			}); err != nil {
				t.Fatal(err)
			}
			if !r.told[len(r.told)-1].Dropped {
				t.Error("not told that something was dropped")
			}
		})
	}
}

// TestDifferentSource: what tells a source from another is named.
func TestDifferentSource(t *testing.T) {
	file := func(name string, size int64, header, id string) sourceIdentity {
		return sourceIdentity{manifest.SourceFile{Name: name, Size: size, HeaderSHA256: header}, id}
	}
	was := []sourceIdentity{file("a", 1, "h", "i"), file("b", 2, "h", "i")}
	for want, is := range map[string][]sourceIdentity{
		"":                                  was,
		"it had 2 weights files, now has 1": was[:1],
		"it had the file b, now has c":      {was[0], file("c", 2, "h", "i")},
		"b had 2 bytes, now has 3":          {was[0], file("b", 3, "h", "i")},
		"b had a header with SHA-256 h, now has g": {was[0], file("b", 2, "g", "i")},
		"b was i, now is j":                        {was[0], file("b", 2, "h", "j")},
	} {
		if got := differentSource(was, is); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

// A journal with a damaged first record still tells files of this run from those of another.
func TestResumeDamagedOther(t *testing.T) {
	r := newResumable(t)
	r.stopped()
	edit(t, r.journal(), flip(30))
	_, _, err := r.run(func(opt *Options, w *WriteOptions, _ func()) { w.Resume.Settings["type"] = "fp4" })
	if err == nil || !strings.Contains(err.Error(), "of which the journal is damaged") {
		t.Errorf("error %v", err)
	}
}

// TestResumeFailures: whatever ends a run, what is finished stays; but where the source is at fault.
func TestResumeFailures(t *testing.T) {
	r := newResumable(t)
	files, results := r.whole()
	full := errors.New("no space left")
	_, _, err := r.run(func(_ *Options, w *WriteOptions, _ func()) {
		w.Files = func([]Result) (map[string][]byte, error) { return nil, full }
	})
	var u *UnfinishedError
	if !errors.As(err, &u) || !errors.Is(err, full) || u.Files != weightsOf {
		t.Fatalf("error %v", err)
	}
	out, _, err := r.run(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.mustEqual(files, results, out)
	if told := r.told[len(r.told)-1]; told.Files != weightsOf || told.Left != 0 {
		t.Errorf("told %+v", told)
	}
	if err := os.RemoveAll(r.dst); err != nil {
		t.Fatal(err)
	}

	// The only file of a model is not recorded.
	_, _, err = r.run(func(opt *Options, w *WriteOptions, _ func()) {
		opt.MaxShardSize = 0
		w.Files = func([]Result) (map[string][]byte, error) { return nil, full }
	})
	if errors.As(err, &u) || !errors.Is(err, full) {
		t.Fatalf("error %v", err)
	}
	if left, _ := filepath.Glob(r.dst + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestNoteHoldsResult: whatever a Result comes to hold is in the journal.
func TestNoteHoldsResult(t *testing.T) {
	var want Result
	n := 0
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(n) << 54)
		case reflect.Float64:
			v.SetFloat(1e300 / float64(3*n))
		default:
			t.Fatalf("a Result has a %v", v.Kind())
		}
	}
	fill(reflect.ValueOf(&want).Elem())
	for _, r := range []Result{want, {NonFinite: -1}, {NonFinite: 0}} {
		raw, err := record{Run: "r", Done: &done{File: "f", Results: []note{noted(&r)}}}.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got.Done.Results[0].result()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// FuzzRecord: no record of a journal brings a run down, and what it takes is of the plan.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{`{"schema":"nf4kit.journal/1","run":"r","done":{"file":"f","tensors":["00"],"results":[{"nonfinite":-1}]}}`,
		`{"schema":"nf4kit.journal/1","run":"r","begun":{"tool":"t","settings":{"a":"b"},"source":[{"name":"x","size":-1}],"task":{"index":3,"of":-8}}}`,
		`{"schema":"nf4kit.journal/1","done":{},"begun":{}}`, `{}`, `[`} {
		f.Add([]byte(s))
	}
	l, err := safetensors.NewLayout([]safetensors.Entry{{Name: "a", DType: safetensors.U8, Shape: []int64{4}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	now := &Begun{Command: "convert", Settings: map[string]string{"type": "fp4"}, Source: []sourceIdentity{{}}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRecord(raw)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || bytes.ContainsRune(again, '\n') {
			t.Fatalf("%q %v", again, err)
		}
		if r.Begun != nil {
			if r.Begun.differs(now) == "" && (r.Begun.Command != now.Command || r.Begun.Tool != now.Tool) {
				t.Error("no difference")
			}
			return
		}
		if r.Done.fits(&Shard{"f", l}, 1) && !slices.Equal(r.Done.Tensors, []manifest.Digest{r.Done.Tensors[0]}) {
			t.Error("fits with other tensors")
		}
	})
}
