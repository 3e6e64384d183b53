// Package verify checks that a bitsandbytes 4-bit checkpoint is complete and
// that loaders will read what its tensors mean: names, shapes and dtypes of every
// weight and its sidecars, quant_state records, code tables, config.json and the
// skip list in it. It finds what loaders do not: a plain weight in a module that
// they expect quantized loads without an error in transformers 5 and fails in
// forward.
package verify

import (
	"fmt"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/bnb"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Finding is something wrong, or worth knowing, about a checkpoint.
type Finding struct {
	Severity bnb.Severity
	File     string
	Tensor   string
	Text     string
	Breaks   []bnb.Loader
}

// A Report is the outcome of Structure.
type Report struct {
	Weights  int // quantized weights found sound
	Plain    int
	Findings []Finding
}

// Failed reports whether some loader will fail on the checkpoint or misread it.
func (r *Report) Failed() bool {
	for _, f := range r.Findings {
		if f.Severity >= bnb.Warning {
			return true
		}
	}
	return false
}

func (r *Report) add(problems []*bnb.Problem) {
	for _, p := range problems {
		text := fmt.Sprintf("%s: expected %s, found %s", p.Kind, p.Expected, p.Found)
		if p.Effect != "" {
			text += " (" + p.Effect + ")"
		}
		r.Findings = append(r.Findings, Finding{p.Severity, p.Shard, p.Tensor, text, p.Breaks})
	}
}

// Structure checks src without reading codes or scales.
func Structure(src *checkpoint.Source, targets arch.Target) (*Report, error) {
	groups, err := bnb.Group(convert.BnbTensors(src))
	if err != nil {
		return nil, err
	}
	r := &Report{Weights: len(groups.Weights), Plain: len(groups.Plain)}
	r.add(groups.Problems)
	if len(groups.Weights) == 0 && len(groups.Errors()) == 0 {
		return nil, &convert.SourceError{Path: src.Path, Msg: "nothing to verify: no tensor has a bitsandbytes 4-bit quant_state"}
	}
	for _, w := range groups.Weights {
		if err := r.tables(w); err != nil {
			return nil, err
		}
	}
	if src.Config == nil {
		if !src.IsFile {
			r.Findings = append(r.Findings, Finding{bnb.Warning, src.Dir, "", "config.json: expected it beside the weights, found none",
				[]bnb.Loader{bnb.Transformers5, bnb.Transformers4}})
		}
		return r, nil
	}
	return r, r.config(src, groups, targets)
}

func (r *Report) tables(w *bnb.Weight) error {
	codes := nf4.Codebook(nf4.NF4)
	if w.State.QuantType == bnb.FP4 {
		codes = nf4.Codebook(nf4.FP4)
	}
	nested := doublequant.Map()
	problems, err := w.CheckTables(&codes, &nested)
	if err != nil {
		return err
	}
	r.add(problems)
	return nil
}

// config checks that config.json says what the tensors are.
func (r *Report) config(src *checkpoint.Source, groups *bnb.Groups, targets arch.Target) error {
	bad := func(text string, breaks ...bnb.Loader) {
		r.Findings = append(r.Findings, Finding{bnb.Warning, "config.json", "", text, breaks})
	}
	both := []bnb.Loader{bnb.Transformers5, bnb.Transformers4}
	q := bnb.DetectConfig(src.Config)
	if q == nil {
		bad("quantization_config: expected one, since there are 4-bit weights, found none", both...)
		return nil
	}
	if !q.FourBit {
		bad(fmt.Sprintf("%s: expected bitsandbytes with load_in_4bit, found %s", q.Where, q.Label), both...)
		return nil
	}
	qc, problems, err := bnb.ParseQuantizationConfig(q.Raw)
	if err != nil {
		bad(err.Error(), both...)
		return nil
	}
	r.add(problems)
	r.add(groups.CheckConfig(qc))
	cfg, err := checkpoint.ParseConfig(src.Config)
	if err != nil {
		return err
	}
	r.dtypes(cfg, groups)
	return r.skipList(cfg, qc, groups, targets)
}

// dtypes checks that every plain float weight has the dtype of the model:
// transformers from 5.21 on keeps a ".weight" in the dtype of its file.
func (r *Report) dtypes(cfg *checkpoint.Config, groups *bnb.Groups) {
	want := map[string]safetensors.DType{"bfloat16": safetensors.BF16, "float16": safetensors.F16, "float32": safetensors.F32}[cfg.DType()]
	for _, t := range groups.Plain {
		switch t.DType {
		case safetensors.BF16, safetensors.F16, safetensors.F32, safetensors.F64:
		default:
			continue
		}
		if len(t.Name) > 7 && t.Name[len(t.Name)-7:] == ".weight" && want != 0 && t.DType != want {
			r.Findings = append(r.Findings, Finding{bnb.Warning, t.Shard, t.Name,
				fmt.Sprintf("dtype: expected %s as in config.json, found %s", want, t.DType), []bnb.Loader{bnb.Transformers5}})
		}
	}
}

// skipList runs the loaders' own match rules over every module.
func (r *Report) skipList(cfg *checkpoint.Config, qc *bnb.QuantizationConfig, groups *bnb.Groups, targets arch.Target) error {
	query, err := arch.ParseConfig(cfg.Strict())
	if err != nil {
		return err
	}
	var names []string
	for _, t := range groups.Plain {
		names = append(names, t.Name)
	}
	for _, w := range groups.Weights {
		names = append(names, w.Name)
	}
	model, err := arch.Resolve(query, names)
	if err != nil {
		r.Findings = append(r.Findings, Finding{bnb.Notice, "config.json", "", fmt.Sprintf("%v: the skip list is not checked", err), nil})
		return nil
	}
	var kept, quantized []arch.Tensor
	for _, t := range groups.Plain {
		if c := model.Classify(t.Name); c.Module {
			kept = append(kept, arch.Tensor{Name: t.Name, Class: c})
		}
	}
	for _, w := range groups.Weights {
		quantized = append(quantized, arch.Tensor{Name: w.Name, Class: model.Classify(w.Name)})
	}
	for _, v := range arch.CheckSkip(qc.SkipModules, targets, kept, quantized) {
		text := fmt.Sprintf("llm_int8_skip_modules: in %s the plain weight of %s is taken for quantized: no entry matches", v.Loader, v.Path)
		if v.Over {
			text = fmt.Sprintf("llm_int8_skip_modules: in %s entry %q skips %s, which is quantized", v.Loader, v.Entry, v.Path)
		}
		r.Findings = append(r.Findings, Finding{bnb.Warning, "config.json", "", text, nil})
	}
	return nil
}
