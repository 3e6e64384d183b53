package decode

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// packed finds the weights of compressed-tensors that lie as M.weight_packed (its compressors/pack_quantized, nvfp4,
// mxfp4 and mxfp6, 0.20.0):
//
//	weight_packed        I32 [out, ceil(in*bits/32)] integers, or U8 [out, in*bits/8] floats of 4 or 6 bits
//	weight_scale         one for the tensor, [out, 1], or [out, groups]
//	weight_shape         I64 [2], [out, in]; of integers
//	weight_zero_point    of asymmetric integers: I8 as the scales, or packed along out: I32 [ceil(out*bits/32), groups]
//	weight_g_idx         I32 [in], the group of a column, of integers in the order of activations (until 0.14)
//	weight_global_scale  F32 [1], NVFP4's scale of the scales
//
// Stacks of experts have one more dimension in front of each.
func (d *detector) packed(tensors []Tensor) error {
	for i := range tensors {
		t := &tensors[i]
		module, leaf := split(t.Name)
		if leaf != "weight_packed" {
			continue
		}
		if len(d.cfg.schemes) == 0 {
			return d.cfg.unsupported(t.Name, "packed weights, and no config_groups that say how")
		}
		for _, s := range d.cfg.schemes {
			if err := s.check(); err != nil {
				return err
			}
		}
		w := &packedWeight{d: d, t: t, module: module, scale: d.byName[module+"weight_scale"]}
		if w.scale == nil {
			return &TensorError{File: t.File, Tensor: t.Name, Expected: "a tensor of its scales, " + module + "weight_scale", Found: "none"}
		}
		if len(t.Shape) < 2 || slices.Contains(t.Shape, 0) {
			return &TensorError{File: t.File, Tensor: t.Name, Expected: "a shape [out, in] of packed elements", Found: fmt.Sprint(t.Shape)}
		}
		var err error
		switch t.DType {
		case safetensors.I32:
			err = w.integers()
		case safetensors.U8:
			err = w.floats()
		default:
			err = &TensorError{File: t.File, Tensor: t.Name, Expected: "integers packed in I32 or floats in U8", Found: t.DType.String()}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packedWeight is one weight on its way into a Logical.
type packedWeight struct {
	d        *detector
	t, scale *Tensor
	module   string // with its dot
	shape    []int64
	parts    []*Tensor
}

// take adds a tensor beside the weight to its parts, nil if there is none.
func (w *packedWeight) take(leaf string) *Tensor {
	t := w.d.byName[w.module+leaf]
	if t != nil {
		w.parts = append(w.parts, t)
	}
	return t
}

func (w *packedWeight) rows() int64 { return w.t.Shape[len(w.t.Shape)-2] }
func (w *packedWeight) cols() int64 { return w.shape[len(w.shape)-1] }

// integers lays out a weight of format pack-quantized.
func (w *packedWeight) integers() error {
	d, t := w.d, w.t
	w.parts = []*Tensor{t, w.scale}
	kind, out, ok := d.scaleKind(w.scale.DType)
	if !ok || kind.size() == 1 {
		return &TensorError{File: w.scale.File, Tensor: w.scale.Name, Expected: "scales in F32, BF16 or F16", Found: w.scale.DType.String()}
	}
	if err := w.storedShape(); err != nil {
		return err
	}
	s, err := w.scheme("pack-quantized", func(s *scheme) bool {
		return s.kind == "int" && w.wordsFit(s) && w.scalesFit(s)
	})
	if err != nil {
		return err
	}
	codes := newBitCodes(t, w.cols(), int(s.bits), 4)
	r := &scaledReader{name: w.module + "weight", codes: codes, code: codeI8, scaleName: w.scale.Name, scales: w.scale.Data, kind: kind,
		grid: w.grid(s), out: elemOf(out)}
	if err := w.zeroPoints(r, s); err != nil {
		return err
	}
	if err := w.order(r, s); err != nil {
		return err
	}
	return w.add(r, out, fmt.Sprintf("INT%d %s", s.bits, s.form()))
}

// storedShape reads weight_shape, a few bytes: how many columns the last word of a row holds is nowhere else, unless
// scales of groups tell. It is held to the shape of the words in all other dimensions.
func (w *packedWeight) storedShape() error {
	t := w.t
	n := len(t.Shape)
	w.shape = slices.Clone(t.Shape)
	sh := w.take("weight_shape")
	if sh == nil {
		for _, s := range w.d.cfg.schemes {
			w.shape[n-1] = 0
			if k := len(w.scale.Shape); s.strategy == "group" && k == n && w.scale.Shape[k-1] <= maxElems/max(s.group, 1) {
				w.shape[n-1] = w.scale.Shape[k-1] * s.group
			}
			if s.kind == "int" && w.cols() > 0 && elems(w.shape) > 0 && w.wordsFit(s) {
				return nil
			}
		}
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "its shape in " + w.module + "weight_shape, or words and scales that tell it by config_groups",
			Found: fmt.Sprintf("%v under scales %v alone", t.Shape, w.scale.Shape)}
	}
	var b [8 * 4]byte
	size := sh.DType.Bits() / 8
	if sh.DType != safetensors.I64 && sh.DType != safetensors.I32 || len(sh.Shape) != 1 || sh.Shape[0] != int64(n) || n > 4 {
		return &TensorError{File: sh.File, Tensor: sh.Name, Expected: fmt.Sprintf("I64 [%d]", n), Found: fmt.Sprintf("%v %v", sh.DType, sh.Shape)}
	}
	if err := stream.ReadFull(sh.Data, b[:n*size], 0); err != nil {
		return fmt.Errorf("read %s: %w", sh.Name, err)
	}
	for i := range w.shape {
		if size == 8 {
			w.shape[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		} else {
			w.shape[i] = int64(int32(binary.LittleEndian.Uint32(b[4*i:])))
		}
	}
	if !slices.Equal(w.shape[:n-1], t.Shape[:n-1]) || w.cols() <= 0 || w.cols() > maxElems/8 || elems(w.shape) < 0 {
		return &TensorError{File: sh.File, Tensor: sh.Name, Expected: fmt.Sprintf("the shape of a weight whose words are %v", t.Shape),
			Found: fmt.Sprint(w.shape)}
	}
	return nil
}

// wordsFit reports whether rows of so many bits take the words that are there. (Before 0.11 elements of 3, 5, 6 and 7
// bits did not cross words. Rows so packed are longer, and do not fit.)
func (w *packedWeight) wordsFit(s *scheme) bool {
	return ceilDiv(w.cols()*s.bits, 32) == w.t.Shape[len(w.t.Shape)-1]
}

// scalesFit reports whether the scales are those of a strategy.
func (w *packedWeight) scalesFit(s *scheme) bool {
	n := len(w.shape)
	switch s.strategy {
	case "tensor":
		return elems(w.scale.Shape) == 1
	case "channel":
		return slices.Equal(w.scale.Shape, append(slices.Clone(w.shape[:n-1]), 1)) || slices.Equal(w.scale.Shape, w.shape[:n-1])
	case "group", "tensor_group":
		return w.cols()%s.group == 0 && slices.Equal(w.scale.Shape, append(slices.Clone(w.shape[:n-1]), w.cols()/s.group))
	}
	return false
}

// grid is where the scales of a strategy that fits lie.
func (w *packedWeight) grid(s *scheme) grid {
	total := elems(w.shape) / w.cols()
	switch g := (grid{rows: total, cols: w.cols(), blockRows: 1, blockCols: w.cols(), scaleRows: total, scaleCols: 1}); s.strategy {
	case "tensor":
		g.blockRows, g.scaleRows = total, 1
		return g
	case "channel":
		return g
	default:
		g.blockCols, g.scaleCols = s.group, w.cols()/s.group
		return g
	}
}

// scheme finds the group of config_groups that a weight belongs to: the one that its shapes fit, or of several the one
// that names it.
func (w *packedWeight) scheme(format string, fits func(*scheme) bool) (*scheme, error) {
	var found []*scheme
	for _, s := range w.d.cfg.schemes {
		if (s.format == "" || s.format == format) && fits(s) && !slices.ContainsFunc(found, s.alike) {
			found = append(found, s)
		}
	}
	if len(found) > 1 {
		found = named(found, strings.TrimSuffix(w.module, "."))
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var forms []string
	for _, s := range w.d.cfg.schemes {
		if form := fmt.Sprintf("%d bits %s (config_groups.%s)", s.bits, s.form(), clip(s.name)); len(forms) < 3 {
			forms = append(forms, form)
		}
	}
	e := &TensorError{File: w.t.File, Tensor: w.t.Name, Expected: strings.Join(forms, " or "),
		Found: fmt.Sprintf("%v under scales %v", w.t.Shape, w.scale.Shape)}
	if w.shape != nil {
		e.Found = fmt.Sprintf("%v for %v under scales %v", w.t.Shape, w.shape, w.scale.Shape)
	}
	if s := w.d.cfg.schemes[0]; len(w.d.cfg.schemes) == 1 && s.group > 0 && w.shape != nil && w.cols()%s.group != 0 {
		e.Found += fmt.Sprintf(", and %d columns are no whole groups of %d", w.cols(), s.group)
	}
	if len(found) > 1 {
		e.Found = "shapes that fit several, and no targets that decide"
	}
	return nil, e
}

// named keeps the schemes that name a module most closely: by its name, else by a pattern, else by its class.
func named(all []*scheme, module string) []*scheme {
	var by [3][]*scheme
	for _, s := range all {
		rank := -1
		for _, target := range s.targets {
			pattern, isPattern := strings.CutPrefix(target, "re:")
			switch {
			case target == module:
				rank = 0
			case isPattern && rank != 0:
				re, err := regexp.Compile("^(?:" + pattern + ")")
				if err != nil || len(pattern) > 1<<10 {
					return all // Python's own syntax: nobody here can tell
				}
				if re.MatchString(module) {
					rank = 1
				}
			case !isPattern && !strings.ContainsAny(target, ".") && rank < 0:
				rank = 2
			}
		}
		if rank >= 0 {
			by[rank] = append(by[rank], s)
		}
	}
	for _, list := range by {
		if len(list) > 0 {
			return list
		}
	}
	return all
}

// zeroPoints takes what is subtracted from the codes of an asymmetric weight.
func (w *packedWeight) zeroPoints(r *scaledReader, s *scheme) error {
	zp := w.take("weight_zero_point")
	switch n := len(w.shape); {
	case zp == nil && s.symmetric:
		return nil
	case zp == nil:
		return &TensorError{File: w.t.File, Tensor: w.t.Name, Expected: "its zero points, " + w.module + "weight_zero_point", Found: "no such tensor"}
	case zp.DType == safetensors.I8 && slices.Equal(zp.Shape, w.scale.Shape):
		r.zeros = &zeroPoints{t: zp}
		return nil
	case zp.DType == safetensors.I32 && !s.symmetric && s.strategy != "tensor" && slices.Equal(zp.Shape,
		append(slices.Clone(w.shape[:n-2]), ceilDiv(w.rows()*s.bits, 32), r.grid.scaleCols)):
		r.zeros = &zeroPoints{t: zp, bits: int(s.bits), rows: w.rows(), words: zp.Shape[n-2]}
		return nil
	}
	want := fmt.Sprintf("I8 %v", w.scale.Shape)
	if !s.symmetric && s.strategy != "tensor" {
		want = fmt.Sprintf("I32 [%d %d], packed along out, or %s", ceilDiv(w.rows()*s.bits, 32), r.grid.scaleCols, want)
	}
	return &TensorError{File: zp.File, Tensor: zp.Name, Expected: want, Found: fmt.Sprintf("%v %v", zp.DType, zp.Shape)}
}

// maxOrdered is the most columns that are held in memory for a weight with an order. The scales of a row fit a window.
const maxOrdered = 1 << 20

// order takes weight_g_idx.
func (w *packedWeight) order(r *scaledReader, s *scheme) error {
	t := w.take("weight_g_idx")
	if t == nil {
		return nil
	}
	if s.strategy != "group" || t.DType != safetensors.I32 || !slices.Equal(t.Shape, []int64{w.cols()}) {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: fmt.Sprintf("I32 [%d], the groups of the columns", w.cols()),
			Found: fmt.Sprintf("%v %v", t.DType, t.Shape)}
	}
	if w.cols() > maxOrdered || r.grid.scaleCols > windowSize {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: fmt.Sprintf("at most %d columns in %d groups", maxOrdered, windowSize),
			Found: fmt.Sprintf("%d in %d", w.cols(), r.grid.scaleCols)}
	}
	r.order = &columnOrder{t: t, cols: int(w.cols()), groups: int(r.grid.scaleCols)}
	r.check = sync.OnceValue(r.order.check)
	w.d.out.checks = append(w.d.out.checks, r.check)
	return nil
}

// floats lays out a weight of formats nvfp4-pack-quantized, mxfp4-pack-quantized and mxfp6-pack-quantized.
func (w *packedWeight) floats() error {
	d, t := w.d, w.t
	global := d.byName[w.module+"weight_global_scale"]
	w.parts = []*Tensor{t, w.scale}
	format, want, kind := "mxfp4-pack-quantized", safetensors.U8, scaleExponent
	if global != nil {
		format, want, kind = "nvfp4-pack-quantized", safetensors.F8_E4M3, scaleE4M3
	}
	if w.scale.DType != want {
		return &TensorError{File: w.scale.File, Tensor: w.scale.Name, Expected: fmt.Sprintf("scales in %v", want), Found: w.scale.DType.String()}
	}
	n := len(t.Shape)
	bytes := t.Shape[n-1]
	fits := func(s *scheme) bool {
		if bytes > maxElems/8 || s.kind != "float" || s.bits != 4 && (s.bits != 6 || global != nil) || s.bits == 6 && bytes%3 != 0 {
			return false
		}
		w.shape = append(slices.Clone(t.Shape[:n-1]), bytes*8/s.bits)
		return (s.strategy == "group" || s.strategy == "tensor_group") && w.scalesFit(s)
	}
	s, err := w.scheme(format, fits)
	if err != nil && global == nil {
		s, err = w.scheme("mxfp6-pack-quantized", fits)
	}
	if err != nil {
		return err
	}
	fits(s) // sets the shape to that of s
	if elems(w.shape) < 0 {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "a shape of fewer than 2^56 elements", Found: fmt.Sprint(w.shape)}
	}
	r := &scaledReader{name: w.module + "weight", codes: t.Data, code: codeE2M1, scaleName: w.scale.Name, scales: w.scale.Data, kind: kind,
		grid: w.grid(s), out: kernel.BF16}
	if s.bits == 6 {
		codes := newBitCodes(t, w.cols(), 6, 1)
		codes.offset = 0
		r.codes, r.code = codes, codeE2M3
	}
	if global != nil {
		if r.level2, err = newLevel2(global, w.shape[:n-2], w.rows()*r.grid.scaleCols); err != nil {
			return err
		}
		// A scale without a dimension does not promote the others: torch then divides in BF16.
		r.level2.divide, r.level2.bf16 = true, len(global.Shape) == 0
		w.parts = append(w.parts, global)
	}
	return w.add(r, safetensors.BF16, fmt.Sprintf("%v %s", r.code, s.form()))
}

func (w *packedWeight) add(r *scaledReader, out safetensors.DType, form string) error {
	err := w.d.add(Logical{Name: w.module + "weight", Shape: w.shape, DType: out, reader: newElements(r, r.out.Size(), elems(w.shape))},
		form, w.parts...)
	if err != nil {
		return err
	}
	w.d.dropActivations(w.module)
	return nil
}
