// Package source finds what a training run is planned for: the shapes of a model, from a checkpoint's headers, from a
// config.json, or built in, and which of its weights convert would quantize.
package source

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/footprint"
	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
	"github.com/nf4kit/nf4kit/internal/remote"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Source is a model as package memplan plans for it.
type Source struct {
	Model    *modelshape.Model
	From     string        // where the shape is from, in words
	DType    memplan.DType // config.json's, "" if it names none
	Load     string        // what from_pretrained would be given
	Warnings []string
}

// Open finds the shape of SRC: a model directory, a .safetensors
// file, a config.json, a built-in name, or what else open opens.
func Open(src string, open func(src string) (*checkpoint.Source, error)) (*Source, error) {
	info, err := os.Stat(src)
	switch {
	case err != nil && builtin(src) != "":
		m, err := modelshape.Builtin(builtin(src))
		if err != nil {
			return nil, err
		}
		load := cmp.Or(m.Hub, m.Name)
		if strings.Contains(src, "/") {
			load = src
		}
		return &Source{Model: m, From: "built-in shape", Load: load}, nil
	case err != nil && remote.IsRemote(src):
		s, err := open(src)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		return fromCheckpoint(src, s)
	case err != nil:
		return nil, unknownSource(src, err)
	case !info.IsDir() && strings.HasSuffix(src, ".json"):
		return fromConfig(src, src)
	}
	s, err := open(src)
	if err == nil {
		defer s.Close()
		return fromCheckpoint(src, s)
	}
	// A directory that has its config.json and no weights yet.
	if config := filepath.Join(src, "config.json"); info.IsDir() && !hasWeights(src) {
		if _, statErr := os.Stat(config); statErr == nil {
			return fromConfig(config, src)
		}
	}
	return nil, err
}

func hasWeights(dir string) bool {
	for _, pattern := range []string{"*.safetensors", "*.safetensors.index.json", "*.bin", "snapshots"} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

// builtin is the built-in shape that src names, as such or as a repository of the hub (org/Name, tuned or not), "" if none.
func builtin(src string) string {
	if org, name, ok := strings.Cut(src, "/"); ok && org != "" && org != "." && org != ".." && !strings.Contains(name, "/") {
		name = strings.ToLower(name)
		for _, n := range []string{name, tuned.ReplaceAllString(name, ""), strings.TrimPrefix(tuned.ReplaceAllString(name, ""), "meta-")} {
			if modelshape.IsBuiltin(n) {
				return n
			}
		}
	}
	if modelshape.IsBuiltin(src) {
		return src
	}
	return ""
}

// tuned is how repositories of a model's fine-tunes end, whose shape is the same.
var tuned = regexp.MustCompile(`-(instruct|it|chat|hf|base|pt)(-(hf|v?[0-9.]+|[0-9]{4}))?$`)

// unknownSource names the built-in shapes that src may have meant.
func unknownSource(src string, err error) error {
	squash := func(s string) string {
		return strings.NewReplacer("-", "", "_", "", " ", "", ".", "").Replace(strings.ToLower(s))
	}
	want := squash(filepath.Base(src))
	var near []string
	for _, n := range modelshape.BuiltinNames() {
		if have := squash(n); want != "" && (strings.Contains(have, want) || strings.Contains(want, have)) {
			near = append(near, n)
		}
	}
	if !errors.Is(err, fs.ErrNotExist) || strings.ContainsRune(src, filepath.Separator) {
		return err
	}
	if len(near) == 0 {
		return fmt.Errorf("%s: no such file or directory, and no built-in shape has that name; there are %s, and more in --list", src, strings.Join(Suggested(), ", "))
	}
	return fmt.Errorf("%s: no such file or directory, and no built-in shape has that name; did you mean %s?", src, someOf(near, 7))
}

// Suggested are built-in shapes to show people who ask what there is.
func Suggested() []string {
	return []string{"llama-2-7b", "llama-3.1-8b", "llama-3.1-70b", "qwen2.5-7b", "qwen3-30b-a3b", "mistral-7b-v0.3", "gemma-2-9b"}
}

// someOf lists names, those beyond most counted.
func someOf(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// sourceError turns what modelshape says of a file into an error of SRC's
// content.
func sourceError(file string, err error) error {
	var c *modelshape.ConfigError
	var u *modelshape.UnknownError
	switch {
	case errors.As(err, &c):
		return &checkpoint.InputError{File: file, Tensor: c.Key, Expected: "the sizes of a model", Found: c.Msg}
	case errors.As(err, &u):
		return &checkpoint.InputError{File: file, Tensor: "model_type", Expected: "one of the " + fmt.Sprint(len(modelshape.Types())) + " known ones", Found: u.Error(),
			Hint: "give the checkpoint itself: its headers hold the exact counts"}
	}
	return fmt.Errorf("%s: %w", file, err)
}

func fromConfig(file, load string) (*Source, error) {
	raw, err := checkpoint.ReadRegular(file, checkpoint.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	cfg, err := checkpoint.ParseConfig(raw)
	var bad *checkpoint.InputError
	if errors.As(err, &bad) {
		named := *bad
		named.File = file
		err = &named
	}
	if err != nil {
		return nil, err
	}
	m, err := modelshape.FromConfig(cfg.Strict())
	if err != nil {
		return nil, sourceError(file, err)
	}
	m.Name = cmp.Or(m.Name, nameOf(load))
	reclassify(m, cfg.Strict())
	return &Source{Model: m, From: "config.json alone", DType: memplan.DType(cfg.DType()), Load: load}, nil
}

func nameOf(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Base(path)
	}
	if base := filepath.Base(abs); base != "config.json" {
		return base
	}
	return filepath.Base(filepath.Dir(abs))
}

// kindOf is what the table of architectures says of a tensor.
func kindOf(c arch.Class, quantize bool) (modelshape.Kind, modelshape.Part, bool) {
	part := modelshape.Text
	switch {
	case c.Tower:
		part = modelshape.Tower
	case c.Projector:
		part = modelshape.Projector
	}
	switch {
	case !c.Known:
		return modelshape.Other, part, false
	case c.Expert:
		return modelshape.Expert, part, true
	case c.Router:
		return modelshape.Router, part, true
	case c.Embedding:
		return modelshape.Embedding, part, true
	case c.Head:
		return modelshape.Head, part, true
	case c.Module && quantize:
		return modelshape.Linear, part, true
	case c.Module:
		return modelshape.Kept, part, true
	}
	return modelshape.Other, part, true
}

// reclassify lets the table of architectures, which convert decides by, say
// which groups of a model known from its config are quantized.
func reclassify(m *modelshape.Model, config []byte) {
	names := make([]string, len(m.Groups))
	for i, g := range m.Groups {
		names[i] = strings.ReplaceAll(g.Name, "*", "1")
	}
	table := tableOf(config, names)
	if table == nil {
		return
	}
	for i, name := range names {
		g := &m.Groups[i]
		if g.Kind != modelshape.Linear && g.Kind != modelshape.Kept {
			continue
		}
		c := table.Classify(name)
		if kind, _, ok := kindOf(c, c.Quantize(arch.Transformers5|arch.Transformers4)); ok {
			g.Kind = kind
		}
	}
}

// fromCheckpoint takes the tensors from the headers and what is quantized
// from convert's own plan; for a checkpoint that is 4-bit already, from it.
func fromCheckpoint(path string, s *checkpoint.Source) (*Source, error) {
	out := &Source{From: "headers", Load: path, Warnings: slices.Clone(s.Warnings)}
	if s.IsFile {
		out.Load = s.Dir
	}
	f, err := footprint.Of(s)
	if err != nil {
		return nil, err
	}
	tensors := make([]modelshape.Tensor, len(f.Tensors))
	quantized := make(map[string]bool, len(f.Tensors))
	for i := range f.Tensors {
		tensors[i] = modelshape.Tensor{Name: f.Tensors[i].Name, Shape: f.Tensors[i].Shape}
		quantized[tensors[i].Name] = f.Tensors[i].Quant
	}
	switch {
	case f.FourBit && f.QuantParams > 0:
		out.From = "headers, 4-bit already"
	case f.FourBit:
		return nil, notWeights(path, f.Method)
	default:
		if tensors, quantized, err = out.convertible(path, s, f, tensors); err != nil {
			return nil, err
		}
	}
	var config []byte
	var classes map[string]arch.Class
	if s.Config != nil {
		cfg, err := checkpoint.ParseConfig(s.Config)
		if err != nil {
			return nil, err
		}
		config, out.DType = cfg.Strict(), memplan.DType(cfg.DType())
		classes = classesOf(config, tensors)
	}
	m, err := modelshape.FromTensors(tensors, config, func(name string) (modelshape.Kind, modelshape.Part, bool) {
		c, known := classes[name]
		switch {
		case known && quantized != nil:
			return kindOf(c, quantized[name])
		case quantized[name]: // a bare file: convert goes by names
			return modelshape.Linear, modelshape.Text, true
		}
		return modelshape.Other, modelshape.Text, false
	})
	if err != nil {
		return nil, sourceError(filepath.Join(path, "config.json"), err)
	}
	m.Name = nameOf(path)
	if s.Repo != "" {
		m.Name, out.Load = nameOf(s.Repo), s.Repo
	}
	out.Model = m
	return out, nil
}

func notWeights(path, method string) error {
	return &checkpoint.InputError{File: path, Expected: "16- or 32-bit weights, or ones that convert decodes, or bitsandbytes 4-bit ones",
		Found: "weights quantized by " + method, Hint: "plan from its config.json"}
}

// convertible is what convert would make of the checkpoint: its tensors, decoded
// where another method has quantized them, and which of them it quantizes. Where
// it would refuse the checkpoint, quantized is nil.
func (out *Source) convertible(path string, s *checkpoint.Source, f *footprint.Footprint, plain []modelshape.Tensor) (
	tensors []modelshape.Tensor, quantized map[string]bool, err error) {
	p, err := convert.NewPlan(s, convert.Options{Towers: true, AllowIncomplete: true})
	if err != nil && f.Method != "" {
		return nil, nil, notWeights(path, f.Method)
	}
	if f.Stale != "" {
		out.Warnings = append(out.Warnings, f.Stale)
	}
	if err != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("convert would refuse this checkpoint (%v); which layers are 4-bit is guessed by name", err))
		return plain, nil, nil
	}
	out.Warnings = append(out.Warnings, p.Incomplete()...)
	tensors, quantized = plain, make(map[string]bool, len(p.Items()))
	if f.Method != "" {
		out.From = "headers, of weights quantized by " + f.Method
		tensors = nil
		for i := range p.Items() {
			tensors = append(tensors, modelshape.Tensor{Name: p.Items()[i].Name, Shape: p.Items()[i].Shape})
		}
	}
	for i := range p.Items() {
		quantized[p.Items()[i].Name] = p.Items()[i].Quantize
	}
	return tensors, quantized, nil
}

// classesOf looks every tensor up in the table of architectures; nil if the
// table does not have the model.
func classesOf(config []byte, tensors []modelshape.Tensor) map[string]arch.Class {
	names := make([]string, len(tensors))
	for i, t := range tensors {
		names[i] = t.Name
	}
	table := tableOf(config, names)
	if table == nil {
		return nil
	}
	out := make(map[string]arch.Class, len(names))
	for _, n := range names {
		out[n] = table.Classify(n)
	}
	return out
}

// tableOf is what the table of architectures says of a model of which there may be no file; nil if it does not have it.
func tableOf(config []byte, names []string) *arch.Model {
	q, err := arch.ParseConfig(config)
	if err != nil {
		return nil
	}
	table, err := arch.Resolve(q, names)
	if err != nil {
		return nil
	}
	return table
}

// AdapterFile is the size of peft's adapter_model.safetensors: the layout that
// the reference serializer would write, header included.
func AdapterFile(adapters []memplan.Adapter, rank int64, dtype memplan.DType) (int64, error) {
	dt := map[memplan.DType]safetensors.DType{memplan.F32: safetensors.F32, memplan.BF16: safetensors.BF16, memplan.F16: safetensors.F16}[dtype]
	var entries []safetensors.Entry
	var count int64
	for _, a := range adapters {
		if count += 2 * min(a.Count, safetensors.MaxTensors); count > safetensors.MaxTensors {
			return 0, &checkpoint.InputError{File: "config.json", Expected: fmt.Sprintf("at most %d matrices of adapters", safetensors.MaxTensors), Found: "more",
				Hint: "choose fewer with --targets; or is the number of layers or of experts a mistake?"}
		}
	}
	next := map[string]int64{} // modules of one name may be of several shapes, as those of sliding and of full attention
	for _, a := range adapters {
		first := next[a.Name]
		next[a.Name] += a.Count
		for i := range a.Count {
			path := "base_model.model." + strings.TrimSuffix(strings.Replace(a.Name, "*", fmt.Sprint(first+i), 1), ".weight")
			entries = append(entries,
				safetensors.Entry{Name: path + ".lora_A.weight", DType: dt, Shape: []int64{rank, a.In}},
				safetensors.Entry{Name: path + ".lora_B.weight", DType: dt, Shape: []int64{a.Out, rank}})
		}
	}
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		return 0, fmt.Errorf("lay out the adapter file: %w", err)
	}
	return l.Size(), nil
}
