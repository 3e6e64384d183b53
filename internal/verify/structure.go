package verify

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// maxSkipModules: Python's re caches 512 patterns, and transformers matches each module against each entry.
const maxSkipModules = 512

// structure checks what headers, records and small files say.
func (r *Report) structure(sub *subject, m *manifest.Manifest) error {
	src, groups := sub.src, sub.groups
	for _, w := range groups.Weights {
		if err := r.tables(w); err != nil {
			return err
		}
	}
	r.headers(src)
	r.index(src, groups)
	if !src.IsFile {
		r.strays(src)
	}
	if src.Config == nil {
		r.bare(sub, m)
		return nil
	}
	return r.config(sub)
}

// bare is about weights without a config.json, which no loader reads as they are. That of a directory is lost, unless nf4kit.json says
// that there was none: then it is what convert makes of a bare file.
func (r *Report) bare(sub *subject, m *manifest.Manifest) {
	meant := sub.src.IsFile
	if m != nil {
		_, had := m.Files["config.json"]
		meant = meant || !had
	}
	if !meant || sub.asked && !sub.src.IsFile {
		r.find(fourbit.Warning, sub.src.Dir, "", "config.json: expected it beside the weights, found none").Breaks =
			[]fourbit.Loader{fourbit.Transformers5, fourbit.Transformers4}
		return
	}
	r.find(fourbit.Notice, filepath.Base(sub.src.Path), "",
		"there is no config.json: whether the model is complete and loaders quantize what is quantized here is not judged")
}

// headers: transformers 4 refuses a safetensors file whose metadata lacks "format" (modeling_utils.py, load_state_dict),
// and no reader should take a header for another than the next one does.
func (r *Report) headers(src *checkpoint.Source) {
	for _, sh := range src.Shards {
		if err := crossCheck(sh.Reader); err != nil {
			r.find(fourbit.Error, sh.Name, "", "%v", err)
		}
		switch meta := sh.Metadata(); {
		case meta == nil:
			r.find(fourbit.Notice, sh.Name, "", "__metadata__: expected {\"format\": \"pt\"}, found none; transformers before 4.51 needs it")
		case meta["format"] != "pt":
			r.find(fourbit.Warning, sh.Name, "", "__metadata__: expected format \"pt\", found %.40q", meta["format"]).Breaks = []fourbit.Loader{fourbit.Transformers4}
		}
	}
}

// index compares what the index file says of the whole with the whole.
func (r *Report) index(src *checkpoint.Source, groups *fourbit.Groups) {
	ix := src.Index
	if ix == nil {
		return
	}
	file := checkpoint.IndexName(src.Base)
	if !ix.HasMetadata {
		r.find(fourbit.Warning, file, "", "metadata: expected an object, found none").Breaks = []fourbit.Loader{fourbit.Transformers5, fourbit.Transformers4}
	}
	for _, t := range src.Tensors {
		switch shard, ok := ix.WeightMap[t.Name]; {
		case !ok:
			r.find(fourbit.Warning, file, t.Name, "weight_map: expected it in %s, found no such line", t.Shard.Name).Breaks = []fourbit.Loader{fourbit.Transformers4}
		case shard != t.Shard.Name:
			r.find(fourbit.Notice, file, t.Name, "weight_map: expected it in %s, found it in %s", t.Shard.Name, shard)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ix.WeightMap)) {
		if _, ok := src.Lookup(name); !ok {
			r.find(fourbit.Notice, file, name, "weight_map: expected the tensor in %s, found it in no shard", ix.WeightMap[name])
		}
	}
	if size := src.TensorBytes(); ix.TotalSize != 0 && ix.TotalSize != size {
		r.find(fourbit.Notice, file, "", "metadata.total_size: expected %d, the bytes of all tensors, found %d", size, ix.TotalSize)
	}
	var params int64
	for _, w := range groups.Weights {
		params += w.Size.Elems
	}
	for _, t := range groups.Plain {
		params += t.Elems()
	}
	if ix.TotalParameters != 0 && ix.TotalParameters != params && len(groups.Errors()) == 0 {
		r.find(fourbit.Notice, file, "", "metadata.total_parameters: expected %d, found %d", params, ix.TotalParameters)
	}
}

// strays are files by which some loader takes the directory for another model.
func (r *Report) strays(src *checkpoint.Source) {
	entries, err := src.ReadDir("")
	if err != nil {
		return // the weights were read from it: nothing that matters here
	}
	used := map[string]bool{}
	for _, sh := range src.Shards {
		used[sh.Name] = true
	}
	for _, e := range entries {
		name := e.Name()
		text, loader := "", fourbit.VLLM
		switch {
		case strings.HasPrefix(name, "consolidated") && filepath.Ext(name) == ".safetensors":
			text = "expected no such file beside the weights: it marks a checkpoint in Mistral's own format"
		case filepath.Ext(name) == ".safetensors" && !used[name]:
			text, loader = "expected no weights file that is not part of the checkpoint: it is read along with the others", fourbit.SGLang
		case name == "adapter_config.json":
			text, loader = "expected no such file beside the weights: it marks a PEFT adapter", fourbit.Transformers5
		default:
			for _, side := range fourbit.SideFiles {
				if name == side {
					text = "expected no such file beside the weights: it names another quantization method"
				}
			}
		}
		if text != "" {
			r.find(fourbit.Warning, name, "", "%s", text).Breaks = []fourbit.Loader{loader}
		}
	}
}

func (r *Report) tables(w *fourbit.Weight) error {
	codes := nf4.Codebook(w.State.Type)
	nested := doublequant.Map()
	problems, err := w.CheckTables(&codes, &nested)
	if r.searched {
		problems = slices.DeleteFunc(problems, func(p *fourbit.Problem) bool { return p.Kind == fourbit.OtherMap })
	}
	if err != nil {
		return err
	}
	r.add(problems)
	return nil
}

// config checks that config.json says what the tensors are.
func (r *Report) config(sub *subject) error {
	src, groups := sub.src, sub.groups
	bad := func(text string, breaks ...fourbit.Loader) {
		f := r.find(fourbit.Warning, "config.json", "", "%s", text)
		f.Breaks, f.fixable = breaks, true
	}
	both := []fourbit.Loader{fourbit.Transformers5, fourbit.Transformers4}
	q := fourbit.DetectConfig(src.Config)
	if q == nil {
		bad("quantization_config: expected one, since there are 4-bit weights, found none", both...)
		return nil
	}
	if !q.FourBit {
		bad(fmt.Sprintf("%s: expected bitsandbytes with load_in_4bit, found %s", q.Where, q.Label), both...)
		return nil
	}
	qc, problems, err := fourbit.ParseConfig(q.Raw)
	if err != nil {
		bad(err.Error(), both...)
		return nil
	}
	r.add(problems)
	r.add(groups.CheckConfig(qc))
	r.dtypes(sub)
	if n := len(qc.SkipModules); n > maxSkipModules {
		r.find(fourbit.Notice, "config.json", "", "llm_int8_skip_modules: expected at most %d entries, found %d; loading takes minutes", maxSkipModules, n)
	}
	r.skipList(sub, qc)
	return nil
}

// dtypes checks that every plain float weight has the dtype of the model: transformers from 5.21 on keeps a ".weight" in the
// dtype of its file. What the model holds in float32 anyway may be stored so.
func (r *Report) dtypes(sub *subject) {
	dtype := sub.cfg.DType()
	want := map[string]safetensors.DType{"bfloat16": safetensors.BF16, "float16": safetensors.F16, "float32": safetensors.F32}[dtype]
	if want == 0 {
		if dtype != "" && dtype != "float64" {
			r.find(fourbit.Warning, "config.json", "", "dtype: expected bfloat16, float16 or float32, found %.40q", dtype).Breaks =
				[]fourbit.Loader{fourbit.Transformers5, fourbit.Transformers4}
		}
		return
	}
	for _, w := range sub.groups.Weights {
		if got := w.State.DType.String(); got != dtype {
			r.find(fourbit.Notice, w.QuantState.Shard, w.Name, "quant_state: decodes to %s, config.json says %s", got, dtype)
			break // one is enough: they are written together
		}
	}
	for _, t := range sub.groups.Plain {
		switch t.DType {
		case safetensors.BF16, safetensors.F16, safetensors.F32, safetensors.F64:
		default:
			continue
		}
		if !strings.HasSuffix(t.Name, ".weight") || t.DType == want {
			continue
		}
		if t.DType == safetensors.F32 && sub.model != nil {
			if c := sub.model.ClassifyTensor(t.Name, len(t.Shape)); c.Hold[arch.V5] != arch.HoldNever || c.Hold[arch.V4] != arch.HoldNever {
				continue
			}
		}
		r.find(fourbit.Warning, t.Shard, t.Name, "dtype: expected %s as in config.json, found %s", want, t.DType).Breaks = []fourbit.Loader{fourbit.Transformers5}
	}
}

// skipList runs the loaders' own match rules over every module.
func (r *Report) skipList(sub *subject, qc *bnb.QuantizationConfig) {
	model, targets := sub.model, sub.targets
	if model == nil {
		r.find(fourbit.Notice, "config.json", "", "%v: the skip list is not checked", sub.unknown)
		return
	}
	if absent := sub.lacking(); absent != 0 {
		r.find(fourbit.Warning, "config.json", "", "architectures: %s has no %s", absent, model.Class).Breaks = loadersOf(absent)
	}
	if by, why := sub.unread(); by != 0 {
		r.find(fourbit.Warning, "config.json", "", "expected %s: transformers 5 writes it so, %s cannot use it", why, by).Breaks = loadersOf(by)
	}
	kept, quantized := sub.modules()
	r.unloadable(model, targets, quantized)
	r.stacks(sub)
	for i, w := range sub.groups.Weights {
		if quantized[i].Class.Expert && w.State.Type == nf4.FP4 {
			r.find(fourbit.Warning, w.Packed.Shard, w.Name, "packed experts: expected nf4, which vLLM takes them for, found fp4").Breaks = loadersOf(arch.VLLM)
			break
		}
	}
	for _, m := range convert.Misreads(model, targets, quantized) {
		severity := fourbit.Warning
		if !m.How.Always() {
			severity = fourbit.Notice
		}
		r.find(severity, "", "", "packed weight: %s", m).Breaks = loadersOf(m.By)
	}
	violations := model.CheckSkip(qc.SkipModules, targets, kept, quantized)
	if qc.SkipModules == nil { // null: the defaults of each loader
		violations = model.CheckNull(targets, kept, quantized)
	}
	for _, v := range violations {
		text := "the plain weight of " + v.Path + " is taken for quantized: no entry matches"
		switch {
		case v.Over && qc.SkipModules == nil:
			text = fmt.Sprintf("null skips %s, which is quantized", v.Path)
		case v.Over:
			text = fmt.Sprintf("entry %q skips %s, which is quantized", v.Entry, v.Path)
		case v.Entry != "":
			text = fmt.Sprintf("entry %q is no regular expression that can be checked", v.Entry)
		}
		f := r.find(fourbit.Warning, "config.json", "", "llm_int8_skip_modules: in %s %s", v.Loader, text)
		f.Breaks, f.fixable = loadersOf(v.Loader.Targets()&targets), true
	}
}

// unloadable reports packed weights for which a loader has no Linear, one finding for each set of loaders and reason.
func (r *Report) unloadable(model *arch.Model, targets arch.Target, quantized []arch.Tensor) {
	type cause struct {
		by  arch.Target
		why string
	}
	var causes []cause
	first, count := map[cause]string{}, map[cause]int{}
	add := func(t arch.Tensor, by arch.Target, why string) {
		c := cause{by, why}
		if by == 0 {
			return
		}
		if count[c] == 0 {
			causes = append(causes, c)
			first[c] = t.Name
		}
		count[c]++
	}
	for _, t := range quantized {
		by, why := t.Class.Unloadable(targets)
		add(t, by, why)
		if by, why := unserved(model, targets&^by, t.Class); by != 0 {
			add(t, by, why)
		}
		if by&arch.Transformers4 == 0 && t.Class.Renamed() {
			add(t, targets&arch.Transformers4, "its class has no module of that name there")
		}
	}
	for _, c := range causes {
		r.find(fourbit.Warning, "", first[c], "packed weight: %s cannot load it (%d such weights): %s", c.by, count[c], c.why).Breaks = loadersOf(c.by)
	}
}

// unserved returns those of the targets that are serving engines and hold the module in 16 bits, whatever a skip list says: their
// output heads, and most of their routers, towers and projectors, are no Linears of theirs that take a quantization method
// (vLLM issues 42813, 12682, 15959). Qwen3-MoE's router is one.
func unserved(model *arch.Model, targets arch.Target, c arch.Class) (by arch.Target, why string) {
	by = targets & (arch.VLLM | arch.SGLang)
	switch {
	case c.Head:
		return by, "an output head"
	case c.Router && model.Type != "qwen3_moe":
		return by, "a router"
	case c.Tower:
		return by, "in a vision or audio tower"
	case c.Projector:
		return by, "a projector"
	case c.Expert && by&arch.SGLang != 0:
		return arch.SGLang, "a routed expert"
	}
	return 0, ""
}
