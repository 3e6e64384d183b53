package convert

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// checkPatterns refuses patterns that could only work by quantizing what must
// not be, and notes those without effect.
func (p *Plan) checkPatterns(pol *policy) error {
	check := func(flag, pattern string, u usage, forces bool) error {
		switch {
		case u.matched == 0:
			p.warnings = append(p.warnings, fmt.Sprintf("%s %s matches no tensor", flag, pattern))
		case u.used == 0 && forces:
			name, reason := p.firstMatch(pol, pattern)
			return &OptionError{fmt.Sprintf("%s %s matches only tensors that are never quantized here: %s is kept, since it is %s",
				flag, pattern, name, reason)}
		}
		return nil
	}
	for i, re := range pol.opt.Only {
		if err := check("--only", re.String(), pol.only[i], true); err != nil {
			return err
		}
	}
	for i, re := range pol.opt.Skip {
		if err := check("--skip", re.String(), pol.skip[i], false); err != nil {
			return err
		}
	}
	for i, r := range pol.opt.Rules {
		if err := check("--rule", r.Pattern.String(), pol.rules[i], !r.Keep); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) firstMatch(pol *policy, pattern string) (name, reason string) {
	for i := range p.items {
		it := &p.items[i]
		for _, re := range pol.opt.Only {
			if re.String() == pattern && re.MatchString(it.Name) {
				return it.Name, it.Reason
			}
		}
		for _, r := range pol.opt.Rules {
			if r.Pattern.String() == pattern && r.Pattern.MatchString(it.Name) {
				return it.Name, it.Reason
			}
		}
	}
	return "", ""
}

// nothing is the error for a plan that quantizes nothing.
func (p *Plan) nothing(opt *Options) error {
	reasons := map[string]int{}
	for i := range p.items {
		reasons[p.items[i].Reason]++
	}
	var most []string
	for _, r := range sortedKeys(reasons) {
		most = append(most, fmt.Sprintf("%d %s", reasons[r], r))
	}
	e := &SourceError{Path: p.src.Path, Msg: "nothing to quantize: " + strings.Join(most, "; ")}
	if p.model != nil {
		what := "a " + p.model.Type
		if p.model.Type == "" {
			what = "a model whose config.json names no model_type"
			e.Hint = "a weights file with no config.json beside it is quantized by the names and shapes of its tensors"
		}
		e.Msg = fmt.Sprintf("nothing to quantize in %s for %s: %s", what, opt.targets(), strings.Join(most, "; "))
		if tower := p.firstTower(opt); tower != "" {
			e.Hint = fmt.Sprintf("--towers quantize quantizes %s and others", tower)
			return e
		}
		for _, t := range []arch.Target{arch.Transformers5, arch.Transformers4} {
			for i := range p.items {
				it := &p.items[i]
				// What the user excluded, or no loader could quantize, another target would not either.
				if opt.targets() != t && len(opt.Only)+len(opt.Skip)+len(opt.Rules) == 0 && weights.IsFloat(it.DType) &&
					it.Class.Quantize(t) && len(it.Shape) == 2 {
					e.Hint = fmt.Sprintf("--target %s would quantize %s and others", t, it.Name)
					return e
				}
			}
		}
	}
	return e
}

// firstTower returns the first weight that is kept for being in a tower, such as all of a speech encoder with a CTC head.
func (p *Plan) firstTower(opt *Options) string {
	if opt.Towers || opt.AsBitsandbytes || len(opt.Only)+len(opt.Skip)+len(opt.Rules) > 0 {
		return ""
	}
	for i := range p.items {
		it := &p.items[i]
		if (it.Class.Tower || it.Class.Projector) && it.Class.Quantize(opt.targets()) && len(it.Shape) == 2 && weights.IsFloat(it.DType) {
			return it.Name
		}
	}
	return ""
}

// checkTargets runs the plan against what is known to break in the loaders it
// is meant for.
func (p *Plan) checkTargets(opt *Options) error {
	if p.config == nil {
		return nil
	}
	t := opt.targets()
	refuse := func(l arch.Target, format string, args ...any) error {
		return &OptionError{fmt.Sprintf("%s %s", l, fmt.Sprintf(format, args...))}
	}
	types := map[nf4.Type]string{}
	dq := map[bool]string{}
	var small, expert, fused, odd, fp4Expert string
	for i := range p.items {
		it := &p.items[i]
		if !it.Quantize {
			continue
		}
		types[it.Spec.Type] = it.Name
		dq[!it.Spec.NoDoubleQuant] = it.Name
		if it.Spec.Block() == 32 {
			small = it.Name
		}
		if it.Elems()%2 != 0 {
			odd = it.Name
		}
		// One of Llama-4's stack is an expert to engines that serve it, and a Linear like any other to transformers.
		if it.Class.Expert || t&(arch.VLLM|arch.SGLang) != 0 && p.model != nil && p.model.Classify(it.Name).Expert {
			expert = it.Name
			if !it.Class.Quant[arch.V5] {
				fused = it.Name
			}
			if it.Spec.Type == nf4.FP4 {
				fp4Expert = it.Name
			}
			if t&arch.VLLM != 0 && it.Elems()%64 != 0 {
				return refuse(arch.VLLM, "cannot load expert %s: %d weights are no multiple of 64", it.Name, it.Elems())
			}
		}
	}
	served := t & (arch.VLLM | arch.SGLang)
	storage := opt.Spec.Storage != bnb.UInt8
	switch {
	case t&(arch.Transformers4|arch.Diffusers) != 0 && len(types) > 1:
		return refuse(t&(arch.Transformers4|arch.Diffusers), "cannot load NF4 (%s) and FP4 (%s) in one checkpoint; --target transformers5 alone allows it",
			types[nf4.NF4], types[nf4.FP4])
	case t&(arch.Transformers4|arch.Diffusers) != 0 && len(dq) > 1:
		return refuse(t&(arch.Transformers4|arch.Diffusers), "cannot load weights with (%s) and without (%s) double quantization in one checkpoint; --target transformers5 alone allows it",
			dq[true], dq[false])
	case t&arch.Transformers5 != 0 && t&arch.Unsloth == 0 && fused != "":
		return refuse(arch.Transformers5, "cannot load packed experts (%s): --moe per-expert needs --target transformers4 or vllm", fused)
	case t&arch.SGLang != 0 && expert != "":
		return refuse(arch.SGLang, "cannot load packed experts (%s)", expert)
	case t&arch.VLLM != 0 && fp4Expert != "":
		return refuse(arch.VLLM, "reads packed experts as NF4, and %s would be FP4", fp4Expert)
	case served != 0 && odd != "":
		return refuse(served, "cannot load %s, which has an odd number of weights; keep it with --skip", odd)
	case t&(arch.VLLM|arch.SGLang|arch.Diffusers) != 0 && storage:
		return refuse(t&(arch.VLLM|arch.SGLang|arch.Diffusers), "cannot load quant storage %s", opt.Spec.Storage)
	}
	if small != "" {
		p.notices = append(p.notices, fmt.Sprintf("block size 32 (%s) needs bitsandbytes 0.50 or newer to load", small))
	}
	if t&arch.VLLM != 0 {
		p.notices = append(p.notices, "vLLM 0.28 and newer need vllm-bnb-plugin for this format; tensor parallelism is not supported")
		if p.stats.ExpertParams > 0 {
			p.warnings = append(p.warnings, "vLLM up to 0.27.1 cannot load experts in 16 bits beside packed weights; --moe per-expert --target vllm packs them")
		}
	}
	if opt.PerExpert && expert == "" {
		p.warnings = append(p.warnings, "--moe per-expert: the checkpoint has no routed experts that are stored one by one")
	}
	if storage {
		w := fmt.Sprintf("quant storage %s: vLLM, SGLang and diffusers refuse it; transformers 4 reads garbage unless the model is loaded with dtype %s", opt.Spec.Storage, opt.Spec.Storage)
		if opt.Spec.Storage == bnb.Float32 {
			w = "quant storage float32: vLLM, SGLang and diffusers refuse it; transformers 4 crashes on it"
		}
		p.warnings = append(p.warnings, w)
	}
	return p.checkUnsloth(opt)
}

// A skipConflict says that no skip list serves every loader of the targets.
type skipConflict struct{ *SourceError }

func (e *skipConflict) Unwrap() error { return e.SourceError }

// quantizationConfig composes the object of that name, with the skip list
// proved against every loader.
func (p *Plan) quantizationConfig(opt *Options) ([]byte, error) {
	quantized := make([]arch.Tensor, 0, p.stats.QuantCount) // a Class is large, and there may be half a million
	kept := make([]arch.Tensor, 0, p.stats.KeptCount)
	qc := bnb.QuantizationConfig{ComputeDType: opt.ComputeDType, Storage: opt.Spec.Storage.String()}
	for i := range p.items {
		it := &p.items[i]
		switch {
		case it.Quantize:
			quantized = append(quantized, arch.Tensor{Name: it.Name, Class: it.Class})
			// The same for every weight, where transformers 4 has to load it.
			qc.Type, qc.DoubleQuant = it.Spec.Type, !it.Spec.NoDoubleQuant
		case it.Class.Module:
			kept = append(kept, arch.Tensor{Name: it.Name, Class: it.Class})
		}
	}
	var bad []arch.Violation
	p.skipList, bad = p.model.SkipList(opt.targets(), kept, quantized)
	if len(bad) > 0 {
		v := bad[0]
		what := fmt.Sprintf("%s would be taken for quantized, and is kept", v.Path)
		if v.Over {
			what = fmt.Sprintf("entry %q would skip %s, which is quantized", v.Entry, v.Path)
		}
		return nil, &skipConflict{&SourceError{Path: p.src.Path, Msg: fmt.Sprintf(
			"no llm_int8_skip_modules list serves every loader: in %s, %s (%d such modules)", v.Loader, what, len(bad)),
			Hint: "narrow --target, or keep or quantize whole groups of modules"}}
	}
	qc.SkipModules = p.skipList
	if qc.ComputeDType == "" || qc.ComputeDType == "auto" {
		qc.ComputeDType = weights.TorchName(p.runDType)
	}
	return qc.Encode()
}

// directory composes what stands beside the weights: config.json, of which
// only dtype and quantization are changed, and the files to copy.
func (p *Plan) directory(dtype string, quantization []byte) error {
	if p.config == nil {
		return nil
	}
	edits := p.config.RemoveQuantization()
	if dtype != "" && (p.model == nil || !p.model.Diffusers) { // diffusers would take dtype for an argument of the class
		edits = append(edits, p.config.SetDType(dtype)...)
	}
	if quantization != nil {
		edits = append(edits, checkpoint.Set("quantization_config", quantization))
	}
	var err error
	if p.configJSON, err = checkpoint.EditConfig(p.src.Config, edits...); err != nil {
		return err
	}
	if p.sides, p.skipped, err = p.src.SideFiles(); err != nil {
		return err
	}
	p.noteSkipped()
	return nil
}

// noteSkipped names the directories that are not copied: unlike files of a known kind, they may hold anything. An adapter changes
// what the model is.
func (p *Plan) noteSkipped() {
	const most = 6
	var dirs []string
	more := 0
	for _, f := range p.skipped {
		switch {
		case f.Rel == "adapter_config.json":
			p.warnings = append(p.warnings, "adapter_config.json lies beside the weights: from_pretrained applies that adapter to SRC, and the output is without it; "+
				"if it belongs to the model, merge it first (PEFT's merge_and_unload)")
		case !f.Dir:
		case len(dirs) < most:
			dirs = append(dirs, f.Rel)
		default:
			more++
		}
	}
	if len(dirs) == 0 {
		return
	}
	note := "directories not copied: " + strings.Join(dirs, ", ")
	if more > 0 {
		note += fmt.Sprintf(" and %d more", more)
	}
	p.notices = append(p.notices, note)
}

// LoadClass names the class that loads the output and the Python package that
// has it, "" for a bare file, and says whether it is a model to train with a
// task.
func (p *Plan) LoadClass() (pkg, class string, task bool) {
	if p.config == nil {
		return "", "", false
	}
	if p.model != nil && p.model.Diffusers {
		return "diffusers", identifier(p.model.Type), false
	}
	if p.unsloth {
		return "unsloth", "FastModel", false
	}
	class, task = autoClass(p.config.Architectures())
	return "transformers", identifier(class), task
}

// identifier is the name of a class as config.json has it, or AutoModel, which
// both packages have, if it is not one of Python's names.
func identifier(class string) string {
	for i, r := range class {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			return "AutoModel"
		}
	}
	return class
}

func autoClass(archs []string) (class string, task bool) {
	if len(archs) == 0 {
		return "AutoModel", false
	}
	for _, c := range []struct{ suffix, auto string }{
		{"ForCausalLM", "AutoModelForCausalLM"},
		{"LMHeadModel", "AutoModelForCausalLM"},
		{"ForMaskedLM", "AutoModelForMaskedLM"},
		{"ForSequenceClassification", "AutoModelForSequenceClassification"},
		{"ForTokenClassification", "AutoModelForTokenClassification"},
		{"ForQuestionAnswering", "AutoModelForQuestionAnswering"},
		{"ForSpeechSeq2Seq", "AutoModelForSpeechSeq2Seq"},
	} {
		if strings.HasSuffix(archs[0], c.suffix) {
			return c.auto, true
		}
	}
	if strings.HasSuffix(archs[0], "Model") {
		return "AutoModel", false
	}
	return archs[0], true
}
