package convert

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A decision is what the policy says about one tensor. It is a function of
// the tensor's name, shape and dtype, the model's family and the options.
type decision struct {
	quantize bool
	spec     bnb.Format
	class    arch.Class
	reason   string // why the tensor is kept
	misread  bool   // and that it is because modeling code reads its weight
}

// policy decides for one checkpoint. model is nil for a bare file: then names
// alone decide.
type policy struct {
	opt    *Options
	model  *arch.Model
	t      arch.Target
	common bool // where transformers 5 and 4.57 disagree, keep

	// How many tensors each pattern matched, and how many of them it had any
	// effect on; a pattern without effect is reported.
	only, skip, rules []usage
}

type usage struct{ matched, used int }

func newPolicy(opt *Options, model *arch.Model) *policy {
	p := &policy{opt: opt, model: model, t: opt.targets()}
	p.only = make([]usage, len(opt.Only))
	p.skip = make([]usage, len(opt.Skip))
	p.rules = make([]usage, len(opt.Rules))
	return p
}

// decide is called once for each logical tensor of the source.
func (p *policy) decide(name string, d safetensors.DType, shape []int64, class arch.Class) decision {
	dec := decision{spec: p.format(name, shape, class), class: class}
	if p.opt.Formats != nil {
		if dec.spec, dec.quantize = p.opt.Formats[name]; !dec.quantize {
			dec.reason = "not quantized before"
		}
		return dec
	}
	if dec.reason = p.defaultReason(name, d, shape, class); dec.reason == "" && p.model != nil {
		if why := p.misread(class); why != "" {
			dec.reason, dec.misread = why+" (--as-bitsandbytes quantizes it)", true
		}
	}
	names := []string{name}
	if class.Stack != "" && p.opt.joinsExperts() {
		names = append(names, class.Stack) // patterns may name what is written, too
	}
	only := match(p.opt.Only, p.only, names)
	if p.model == nil && only && weights.IsFloat(d) && len(shape) == 2 && shape[0] > 0 && shape[1] > 0 {
		dec.reason = "" // on a bare file, --only overrides every default exclusion
	}
	quantizable := dec.reason == ""
	if only && quantizable {
		use(p.opt.Only, p.only, names)
	}
	if len(p.opt.Only) > 0 && !only && quantizable {
		dec.reason = "not matched by --only"
	}
	if match(p.opt.Skip, p.skip, names) && quantizable {
		dec.reason = "matched by --skip"
		use(p.opt.Skip, p.skip, names)
	}
	for i, r := range p.opt.Rules {
		if !slices.ContainsFunc(names, r.Pattern.MatchString) {
			continue
		}
		p.rules[i].matched++
		if quantizable {
			p.rules[i].used++
		}
		if r.Keep {
			if dec.reason == "" {
				dec.reason = "kept by --rule " + r.Pattern.String()
			}
		} else {
			dec.spec = r.Change.Apply(dec.spec)
		}
		break
	}
	dec.quantize = dec.reason == ""
	return dec
}

// format is that of a weight before rules change it.
func (p *policy) format(name string, shape []int64, class arch.Class) bnb.Format {
	f := p.opt.Spec
	if !p.opt.FitExperts || p.t&arch.Unsloth == 0 || p.opt.joinsExperts() || !class.Expert || len(shape) != 2 || ExpertStack(name) == "" {
		return f
	}
	if n := shape[0] * shape[1]; n%int64(f.Block()) != 0 {
		f.BlockSize = cmp.Or(fitting(n, f), f.BlockSize)
	}
	return f
}

func match(list []*regexp.Regexp, n []usage, names []string) bool {
	hit := false
	for i, re := range list {
		if slices.ContainsFunc(names, re.MatchString) {
			n[i].matched++
			hit = true
		}
	}
	return hit
}

func use(list []*regexp.Regexp, n []usage, names []string) {
	for i, re := range list {
		if slices.ContainsFunc(names, re.MatchString) {
			n[i].used++
		}
	}
}

// defaultReason says why a tensor is kept before --only, --skip and --rule are
// asked, or "".
func (p *policy) defaultReason(name string, d safetensors.DType, shape []int64, c arch.Class) string {
	if p.t&arch.Unsloth != 0 && p.model != nil && len(shape) == 3 && ExpertStack(name) != "" && weights.IsFloat(d) {
		return unslothStack(p.model, name, shape)
	}
	if len(shape) != 2 || !strings.HasSuffix(name, ".weight") && p.model != nil {
		return "not a matrix of weights"
	}
	if !weights.IsFloat(d) {
		return fmt.Sprintf("its dtype is %s", d)
	}
	if shape[0] == 0 || shape[1] == 0 {
		return "it has no elements"
	}
	if p.model == nil {
		return bareReason(name)
	}
	served := p.t&(arch.VLLM|arch.SGLang) != 0
	switch {
	case c.Router && (!c.Quant[arch.V5] || served):
		return "a router" // quantized by 4.57 alone; 5.x and serving engines cannot load it packed
	case served && c.Head && p.inSet(name, c):
		return "an output head, which serving engines hold in 16 bits" // BERT's classifier, which 5.x quantizes
	case p.t&arch.Unsloth != 0 && c.Expert && !c.Router && ExpertStack(name) != "" && !c.Quantize(arch.Transformers5):
		return unslothExpert(p.model)
	case c.Expert && c.Module && !c.Quantize(arch.Transformers5):
		if p.opt.PerExpert {
			return ""
		}
		return "a routed expert, which transformers 5 fuses (--moe per-expert quantizes it)"
	case !p.inSet(name, c):
		return why(c)
	case (c.Tower || c.Projector) && !p.opt.Towers && !p.opt.AsBitsandbytes:
		return "in a vision or audio tower or a projector (--towers quantize quantizes it)"
	}
	return ""
}

// inSet reports whether BitsAndBytesConfig quantizes the module for the
// targets. For transformers 5 and 4 together that is what 5.x quantizes, but for
// the pooler of an encoder: 5.x quantizes it only because the name of the model's
// last parameter ends in .bias, which its default skip rule does not strip, and
// 4.57 does not. With common, it is what both quantize.
func (p *policy) inSet(name string, c arch.Class) bool {
	const both = arch.Transformers5 | arch.Transformers4
	switch {
	case p.t&both != both && p.t&both != 0, !c.In[arch.V5], p.common:
		return c.Quantize(p.t)
	case strings.Contains("."+name, ".pooler.") && !c.Quant[arch.V4] && !p.opt.AsBitsandbytes:
		return false
	}
	return c.Quantize(arch.Transformers5) && !c.Unlisted
}

// why says why transformers keeps a module.
func why(c arch.Class) string {
	switch {
	case c.Reason != "":
		return c.Reason
	case !c.Module:
		return "not a Linear"
	case c.Quant[arch.V5]:
		return "not quantized by transformers 4.57"
	case c.Quant[arch.V4]:
		return "not quantized by transformers 5"
	}
	return "not quantized by transformers"
}

// bareKeep holds the words that, in a component of a tensor's name, mark what
// a checkpoint without config.json keeps by default: embeddings, output heads,
// norms, routers.
var bareKeep = []struct {
	word, reason string
}{
	{"embed", "an embedding"}, {"wte", "an embedding"}, {"wpe", "an embedding"}, {"tok_embeddings", "an embedding"},
	{"shared", "an embedding"},
	{"lm_head", "an output head"}, {"embed_out", "an output head"}, {"output", "an output head"}, {"head", "an output head"},
	{"score", "an output head"}, {"classifier", "an output head"}, {"qa_outputs", "an output head"},
	{"norm", "a norm"}, {"layernorm", "a norm"}, {"ln_f", "a norm"},
	{"router", "a router"}, {"gate", "a router"},
}

// bareReason is the policy for a file without config.json. Words that contain
// others, such as gate_proj, are compared as whole components except where
// the part alone is unmistakable.
func bareReason(name string) string {
	module, ok := strings.CutSuffix(name, ".weight")
	if !ok {
		return "not a .weight (--only overrides)"
	}
	parts := strings.Split(module, ".")
	for i, c := range parts {
		for _, k := range bareKeep {
			leaf := i == len(parts)-1
			switch k.word {
			case "embed", "norm":
				if !strings.Contains(c, k.word) {
					continue
				}
			case "output", "head", "shared":
				if c != k.word || len(parts) > 2 || !leaf {
					continue
				}
			default:
				if c != k.word {
					continue
				}
			}
			return k.reason + " by its name (--only overrides)"
		}
	}
	return ""
}
