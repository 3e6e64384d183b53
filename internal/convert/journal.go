package convert

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/quantize"
)

// journalSchema names the layout of the records.
const journalSchema = "nf4kit.journal/1"

// A Begun is the first record of an attempt: what it makes, in which words, so that another can say what differs.
type Begun struct {
	Run      string            `json:"-"` // digest of what follows, but for Task and Args: attempts at the same have the same
	Tool     string            `json:"tool"`
	Command  string            `json:"command"`
	Settings map[string]string `json:"settings"`
	Source   []sourceIdentity  `json:"source"`
	Plan     string            `json:"plan"`  // digest of the plan
	Files    int               `json:"files"` // weights files of the plan
	Task     Task              `json:"task"`
	Args     json.RawMessage   `json:"args,omitempty"` // of the command, as it wants them
}

// sourceIdentity is one weights file of the source, as far as it is known without reading it.
type sourceIdentity struct {
	manifest.SourceFile
	Identity string `json:"identity"`
}

// done is the record of a finished weights file.
type done struct {
	File    string            `json:"file"`
	Digest  manifest.Digest   `json:"digest"`  // of the header and the tensors' digests
	Tensors []manifest.Digest `json:"tensors"` // in the order of the file
	Results []note            `json:"results"` // of its items, in their order

	Stored *checkpoint.Stored `json:"stored,omitempty"` // what the store that it was sent to says of it
}

// note is a Result, of which kept tensors have nothing but NonFinite.
type note struct {
	NonFinite int64            `json:"nonfinite"`
	Weight    *quantize.Result `json:"weight,omitempty"`
	Figures   json.RawMessage  `json:"figures,omitempty"` // see Figures
}

func noted(r *Result) note {
	n := note{NonFinite: r.NonFinite}
	if r.Result != (quantize.Result{}) {
		n.Weight = &r.Result
	}
	return n
}

func (n note) result() Result {
	r := Result{NonFinite: n.NonFinite}
	if n.Weight != nil {
		r.Result = *n.Weight
	}
	return r
}

// record is a line of the journal: one or the other.
type record struct {
	Schema string `json:"schema"`
	Run    string `json:"run"`
	Begun  *Begun `json:"begun,omitempty"`
	Done   *done  `json:"done,omitempty"`
}

// seal is the digest of a file, from those of its parts.
func seal(header []byte, tensors []manifest.Digest) manifest.Digest {
	h := blake3.New()
	_, _ = h.Write(header) // a hash never fails
	for i := range tensors {
		_, _ = h.Write(tensors[i][:])
	}
	return manifest.Digest(h.Sum(nil))
}

// digest is that of everything that the plan decides.
func (p *Plan) digest() string {
	h := blake3.New()
	for _, sh := range p.shards {
		fmt.Fprintf(h, "%q %d\n", sh.Name, len(sh.Layout.Header()))
		_, _ = h.Write(sh.Layout.Header())
	}
	for i := range p.items {
		it := &p.items[i]
		fmt.Fprintf(h, "%q %q %v %v %v %q %v %v %d %d\n", it.Name, it.File, it.DType, it.Shape, it.Quantize, it.Spec.String(), it.Out, it.Unrounded, it.Stack, it.Shard)
	}
	fmt.Fprintf(h, "%v %q %d %d\n", p.runDType, p.indexName, len(p.indexJSON), len(p.configJSON))
	_, _ = h.Write(p.indexJSON)
	_, _ = h.Write(p.configJSON)
	return hex.EncodeToString(h.Sum(nil))
}

// begun is the first record of this attempt.
func (p *Plan) begun(r *Resume) (*Begun, error) {
	b := &Begun{Tool: r.Tool, Command: r.Command, Settings: r.Settings, Plan: p.digest(), Files: len(p.shards)}
	for _, f := range manifest.SourceOf(p.src).Files {
		i := slices.IndexFunc(p.src.Shards, func(sh shard) bool { return sh.Name == f.Name })
		id, err := p.src.Shards[i].ContentID()
		if err != nil {
			return nil, err
		}
		b.Source = append(b.Source, sourceIdentity{f, id})
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	b.Run, b.Task, b.Args = manifest.Sum(raw).String(), r.Task, r.Args
	return b, nil
}

// differs says in what b is not of the same making as now, "" if in nothing that is known.
func (b *Begun) differs(now *Begun) string {
	switch {
	case b.Command != now.Command:
		return fmt.Sprintf("it is of %s, this is %s", b.Command, now.Command)
	case b.Tool != now.Tool:
		return fmt.Sprintf("it was begun by %s, this is %s", b.Tool, now.Tool)
	}
	var list []string
	for _, name := range sortedKeys(union(b.Settings, now.Settings)) {
		was, set := b.Settings[name]
		is, given := now.Settings[name]
		if set != given || was != is {
			list = append(list, fmt.Sprintf("--%s was %s, is %s", name, settingText(was, set), settingText(is, given)))
		}
	}
	if len(list) > 0 {
		return strings.Join(list, "; ")
	}
	if s := differentSource(b.Source, now.Source); s != "" {
		return "the source has changed: " + s
	}
	if b.Plan != now.Plan {
		return "the plan is another one: what config.json or the side inputs say has changed"
	}
	return ""
}

func union(a, b map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func settingText(v string, given bool) string {
	if !given {
		return "not given"
	}
	return fmt.Sprintf("%.200q", v)
}

func differentSource(was, is []sourceIdentity) string {
	if len(was) != len(is) {
		return fmt.Sprintf("it had %d weights files, now has %d", len(was), len(is))
	}
	for i := range was {
		a, b := &was[i], &is[i]
		switch {
		case a.Name != b.Name:
			return fmt.Sprintf("it had the file %s, now has %s", a.Name, b.Name)
		case a.Size != b.Size:
			return fmt.Sprintf("%s had %d bytes, now has %d", a.Name, a.Size, b.Size)
		case a.HeaderSHA256 != b.HeaderSHA256:
			return fmt.Sprintf("%s had a header with SHA-256 %s, now has %s", a.Name, a.HeaderSHA256, b.HeaderSHA256)
		case a.Identity != b.Identity:
			return fmt.Sprintf("%s was %s, now is %s", a.Name, a.Identity, b.Identity)
		}
	}
	return ""
}

// encode is the line of the journal.
func (r record) encode() ([]byte, error) {
	r.Schema = journalSchema
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return raw, nil
}

// RecordedArgs are the arguments of a record that begins an attempt, nil of another.
func RecordedArgs(raw []byte) (json.RawMessage, error) {
	r, err := parseRecord(raw)
	if err != nil || r.Begun == nil {
		return nil, err
	}
	return r.Begun.Args, nil
}

// parseRecord reads a record, whose checksum has been checked.
func parseRecord(raw []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Schema != journalSchema:
		return nil, fmt.Errorf("expected schema %q, found %.60q", journalSchema, r.Schema)
	case (r.Begun == nil) == (r.Done == nil):
		return nil, errors.New("expected the record of a run or of a file")
	case r.Begun != nil:
		r.Begun.Run = r.Run
	}
	return &r, nil
}

// fits reports whether the record can be of that file.
func (d *done) fits(sh *Shard, items int) bool {
	return len(d.Tensors) == len(sh.Layout.Tensors()) && len(d.Results) == items && d.Digest == seal(sh.Layout.Header(), d.Tensors)
}

// check reads a finished file: whether it is, to the bit, what was recorded.
func (d *done) check(f io.ReaderAt, size int64, sh *Shard, buf []byte) error {
	if size != sh.Layout.Size() {
		return fmt.Errorf("expected %d bytes, found %d", sh.Layout.Size(), size)
	}
	header := sh.Layout.Header()
	if found, err := manifest.DigestOf(f, int64(len(header)), buf); err != nil {
		return err
	} else if found != manifest.Sum(header) {
		return errors.New("its header is not the one that was written")
	}
	for i, t := range sh.Layout.Tensors() {
		found, err := manifest.DigestOf(io.NewSectionReader(f, t.Offset, t.Size), t.Size, buf)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if found != d.Tensors[i] {
			return fmt.Errorf("tensor %q: expected digest %v, found %v", t.Name, d.Tensors[i], found)
		}
	}
	return nil
}

// arrived compares what a store has with what it had when the file was sent there.
func (d *done) arrived(stored map[string]checkpoint.Stored) error {
	switch is, ok := stored[d.File]; {
	case !ok:
		return errors.New("it is not there")
	case d.Stored == nil:
		return errors.New("the journal does not say what the store had")
	case is != *d.Stored:
		return fmt.Errorf("it was of %d bytes and ETag %s, and is of %d and %s", d.Stored.Size, d.Stored.ID, is.Size, is.ID)
	}
	return nil
}

func damageText(d checkpoint.Damage) string {
	if d.Torn && d.Lines == 1 {
		return fmt.Sprintf("%s: the last record is torn, and left out", d.File)
	}
	return fmt.Sprintf("%s: %d records do not bear their checksums, and are left out", d.File, d.Lines)
}
