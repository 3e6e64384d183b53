// Package verify checks that a bitsandbytes 4-bit checkpoint is complete and
// that loaders will read what its tensors mean.
//
// It looks, in this order and as far as it is asked to,
//
//   - at names, shapes and dtypes of every weight and its sidecars, quant_state
//     records, code tables, config.json and the skip list in it (structure.go);
//   - at every code and constant: decoded scales are finite, codes and scales
//     belong together, padding is what bitsandbytes writes (contents.go);
//   - at the digests that convert recorded (digests.go);
//   - at the source: every code and constant is derived again and compared
//     (proof.go).
//
// It finds what loaders do not: a plain weight in a module that they expect
// quantized loads without an error in transformers 5 and fails in forward.
package verify

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// A Finding is something wrong, or worth knowing, about a checkpoint.
type Finding struct {
	Severity fourbit.Severity
	Kind     string // what findings of one sort have in common; not for people to read
	File     string
	Tensor   string
	Text     string
	Breaks   []fourbit.Loader // a warning with none is about every loader

	fixable bool // quantization_config alone is at fault
}

// Options say what is checked. The zero value checks everything that needs no
// source, for transformers 5 and 4.
type Options struct {
	Targets       arch.Target // 0: those of the model, see arch.Model.Targets
	StructureOnly bool        // headers and records alone

	AllowIncomplete bool               // what the checkpoint lacks, or has too much, is a notice
	Source          *checkpoint.Source // derive every code and constant from it again; nil: do not
	Inputs          *Inputs            // what the scales were weighted with; nil: nothing
	Stream          stream.Options
	Progress        func(tensor string, bytes int64) // called from one goroutine at a time
}

// progress calls Progress, if there is one, from any number of goroutines.
func (o *Options) progress() func(tensor string, bytes int64) {
	if o.Progress == nil {
		return func(string, int64) {}
	}
	var mu sync.Mutex
	return func(tensor string, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		o.Progress(tensor, bytes)
	}
}

// A Report is the outcome of Check.
type Report struct {
	Weights  int // quantized weights that can be decoded
	Plain    int
	Targets  arch.Target // what the checkpoint was checked for
	Findings []Finding   // the most severe first
	Manifest *manifest.Manifest
	Digests  int     // tensors whose recorded digest was compared
	Formula  float64 // bits per parameter of codes and constants that type, block size and double quantization promise
	Proof    *Proof  // nil without a source

	searched bool // the manifest names another method of scales than absmax
}

// Failed reports whether one of the targets will fail on the checkpoint or misread it, or a digest or the source says that
// it is not what was written.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity >= fourbit.Warning })
}

// Serves returns those of the targets that no finding speaks against.
func (r *Report) Serves() arch.Target {
	serves := r.Targets
	for _, f := range r.Findings {
		switch {
		case f.Severity < fourbit.Warning:
		case f.Severity == fourbit.Error || len(f.Breaks) == 0:
			return 0
		default:
			serves &^= broken(f.Breaks, r.Targets)
		}
	}
	return serves
}

// judge makes a notice of every warning of a loader that is not among the targets.
func (r *Report) judge() {
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity == fourbit.Warning && len(f.Breaks) > 0 && broken(f.Breaks, r.Targets) == 0 {
			f.Severity = fourbit.Notice
		}
	}
}

// targetOf are the loaders that a target stands for. Of the others, older versions and FSDP are nobody's target, and
// bitsandbytes is everybody's.
var targetOf = map[fourbit.Loader]arch.Target{
	fourbit.Transformers5: arch.Transformers5, fourbit.Transformers4: arch.Transformers4,
	fourbit.VLLM: arch.VLLM, fourbit.SGLang: arch.SGLang, fourbit.Diffusers: arch.Diffusers,
	fourbit.Unsloth: arch.Unsloth,
}

// broken returns those of the targets that are among the loaders.
func broken(loaders []fourbit.Loader, targets arch.Target) arch.Target {
	var t arch.Target
	for _, l := range loaders {
		if l == fourbit.Bitsandbytes {
			return targets
		}
		t |= targetOf[l]
	}
	return t & targets
}

// loadersOf is targetOf backwards.
func loadersOf(t arch.Target) []fourbit.Loader {
	var out []fourbit.Loader
	for _, l := range []fourbit.Loader{fourbit.Transformers5, fourbit.Transformers4, fourbit.VLLM, fourbit.SGLang, fourbit.Diffusers, fourbit.Unsloth} {
		if targetOf[l]&t != 0 {
			out = append(out, l)
		}
	}
	return out
}

func (r *Report) add(problems []*fourbit.Problem) {
	for _, p := range problems {
		text := fmt.Sprintf("%s: expected %s, found %s", p.Kind, p.Expected, p.Found)
		if p.Effect != "" {
			text += " (" + p.Effect + ")"
		}
		r.Findings = append(r.Findings, Finding{p.Severity, string(p.Kind), p.Shard, p.Tensor, text, p.Breaks, p.Kind == fourbit.ConfigMismatch})
	}
}

// find adds a finding. The pointer is good until the next one.
func (r *Report) find(s fourbit.Severity, file, tensor, format string, args ...any) *Finding {
	r.Findings = append(r.Findings, Finding{Severity: s, Kind: format, File: file, Tensor: tensor, Text: fmt.Sprintf(format, args...)})
	return &r.Findings[len(r.Findings)-1]
}

// Check checks src. What is wrong with it is in the report; the error is of
// reading, of a checkpoint without any 4-bit weight, or of a source that
// cannot be opened as one.
func Check(ctx context.Context, src *checkpoint.Source, opt Options) (*Report, error) {
	groups, err := fourbit.Group(weights.BnbTensors(src))
	if err != nil {
		return nil, err
	}
	if n := len(fourbit.Int8Weights(weights.BnbTensors(src))); n > 0 && len(groups.Weights) == 0 {
		return nil, &weights.SourceError{Path: src.Path, Msg: fmt.Sprintf("nothing to verify: its %d quantized weights are LLM.int8, not 4-bit", n),
			Hint: "nf4kit measure SOURCE " + src.Path + " compares them with the weights they were made of"}
	}
	r := &Report{Weights: len(groups.Weights), Plain: len(groups.Plain)}
	r.add(groups.Problems)
	if len(groups.Weights) == 0 && len(groups.Errors()) == 0 {
		return nil, nothingTo(src)
	}
	sub, err := newSubject(src, groups, opt.Targets)
	if err != nil {
		return nil, err
	}
	r.Targets = sub.targets
	m, badManifest := manifest.Read(src)
	r.searched = m != nil && scalesChosen(m)
	if err := r.structure(sub, m); err != nil {
		return nil, err
	}
	if err := r.complete(sub, opt.AllowIncomplete); err != nil {
		return nil, err
	}
	r.Formula = formula(groups)
	if !opt.StructureOnly {
		if badManifest != nil {
			r.find(fourbit.Warning, manifest.Name, "", "%v", badManifest)
		}
		r.Manifest = m
		if err := r.deep(ctx, sub, opt); err != nil {
			return nil, err
		}
	}
	r.judge()
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	return r, nil
}

// nothingTo is the error for a checkpoint without 4-bit weights.
func nothingTo(src *checkpoint.Source) error {
	e := &weights.SourceError{Path: src.Path, Msg: "nothing to verify: no tensor has a bitsandbytes 4-bit quant_state"}
	q, stale, err := weights.Quantized(src)
	switch {
	case err != nil:
		return err
	case stale != nil && q == nil:
		e.Msg += fmt.Sprintf(": the weights are plain, though %s: %s says %s, which loaders will take them for", stale.File, stale.Where, stale.Label)
		e.Hint = weights.StaleHint(src, stale)
	}
	return e
}

// deep reads every byte.
func (r *Report) deep(ctx context.Context, sub *subject, opt Options) error {
	src, groups, m := sub.src, sub.groups, r.Manifest
	if err := r.contents(ctx, groups, opt); err != nil {
		return err
	}
	if m != nil {
		if err := r.digests(ctx, src, m, opt); err != nil {
			return err
		}
	}
	if opt.Source != nil {
		return r.prove(ctx, sub, opt)
	}
	if m == nil {
		return r.plain(ctx, groups.Plain, opt)
	}
	return nil
}

// formula is 4 bits and the constants' share by parameter, averaged over the
// weights: 4 + 8/64 + 32/(64*256) = 4.127 for blocks of 64 with double
// quantization, 4.5 without (QLoRA, arXiv 2305.14314, section 3).
func formula(g *fourbit.Groups) float64 {
	var bits, elems float64
	for _, w := range g.Weights {
		bits += w.State.BitsPerParameter() * float64(w.Size.Elems)
		elems += float64(w.Size.Elems)
	}
	if elems == 0 {
		return 0
	}
	return bits / elems
}
