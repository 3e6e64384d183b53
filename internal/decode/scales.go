package decode

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// scaled finds the weights of 8 bits (and DeepSeek-V4's of 4) that a tensor of scales stands beside.
func (d *detector) scaled(tensors []Tensor) error {
	for i := range tensors {
		t := &tensors[i]
		if d.out.consumed[t.Name] {
			continue
		}
		if err := d.refusePacked(t); err != nil {
			return err
		}
		code, ok := d.codeOf(t)
		if !ok {
			continue
		}
		scale, err := d.scaleOf(t)
		if err != nil {
			return err
		}
		if scale == nil {
			if !d.cfg.given || t.DType == safetensors.I8 {
				continue
			}
			return &TensorError{File: t.File, Tensor: t.Name, Expected: "a tensor of its scales, such as " + d.suffixed(t)[0],
				Found: "none"}
		}
		if err := d.scaledWeight(t, code, scale); err != nil {
			return err
		}
	}
	return d.leftovers(tensors)
}

// codeOf says how the elements of t are to be read if it can be a scaled weight.
func (d *detector) codeOf(t *Tensor) (code, bool) {
	_, leaf := split(t.Name)
	if d.cfg.method == modelopt && leaf != "weight" {
		return 0, false
	}
	switch t.DType {
	case safetensors.F8_E4M3:
		return codeE4M3, true
	case safetensors.F8_E5M2:
		return codeE5M2, true
	case safetensors.I8:
		switch d.cfg.method {
		case "compressed-tensors":
			return codeI8, true
		case "fp8":
			return codeE2M1, true
		}
	case safetensors.U8:
		return codeE2M1, d.cfg.method == modelopt
	}
	return 0, false
}

// refusePacked tells the formats that share a quant_method with a decodable one.
func (d *detector) refusePacked(t *Tensor) error {
	_, leaf := split(t.Name)
	switch {
	case t.DType == safetensors.F8_E4M3FNUZ || t.DType == safetensors.F8_E5M2FNUZ:
		return d.cfg.unsupported(t.Name, fmt.Sprintf("%v elements do not say whether their scales are doubled", t.DType))
	case leaf == "weight_packed" || leaf == "weight_global_scale" || leaf == "weight_scale_2" && d.cfg.method != modelopt || leaf == "compressed":
		return d.cfg.unsupported(t.Name, "packed weights are not decoded")
	case d.cfg.method == modelopt:
		return d.refuseModelOpt(t)
	case leaf == "scale_weight" || t.Name == "scaled_fp8":
		return d.cfg.unsupported(t.Name, "ComfyUI's scaled FP8 has no reference that it could be checked against")
	}
	return nil
}

// suffixed lists the names that the scales of t may have, the usual one first. transformers reads ".scale" (DeepSeek-V4)
// and ".qscale_weight" (Mistral) too (quantizers/quantizer_finegrained_fp8.py, update_weight_conversions).
func (d *detector) suffixed(t *Tensor) []string {
	if d.cfg.method == "fbgemm_fp8" || d.cfg.method == "compressed-tensors" || d.cfg.method == modelopt {
		return []string{t.Name + "_scale"}
	}
	names := []string{t.Name + "_scale_inv", t.Name + "_scale"}
	if module, leaf := split(t.Name); leaf == "weight" {
		names = append(names, module+"scale", module+"qscale_weight")
	}
	return names
}

func (d *detector) scaleOf(t *Tensor) (scale *Tensor, err error) {
	for _, name := range d.suffixed(t) {
		s, ok := d.byName[name]
		if ok && scale != nil {
			return nil, &TensorError{File: t.File, Tensor: t.Name, Expected: "one tensor of scales",
				Found: scale.Name + " and " + s.Name}
		}
		if ok {
			scale = s
		}
	}
	return scale, nil
}

func (d *detector) scaledWeight(t *Tensor, c code, scale *Tensor) error {
	shape := slices.Clone(t.Shape)
	if c == codeE2M1 {
		if len(shape) == 0 || shape[len(shape)-1] == 0 {
			return &TensorError{File: t.File, Tensor: t.Name, Expected: "two elements in each byte of a row", Found: fmt.Sprint(t.Shape)}
		}
		shape[len(shape)-1] *= 2
	}
	if elems(shape) < 0 {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "a shape of fewer than 2^56 elements", Found: fmt.Sprint(shape)}
	}
	kind, out, ok := d.scaleKind(scale.DType)
	if !ok {
		return &TensorError{File: scale.File, Tensor: scale.Name, Expected: "scales in F32, BF16, F16, F8_E8M0 or U8",
			Found: scale.DType.String()}
	}
	g, form, ok := d.gridOf(shape, scale.Shape)
	if !ok {
		return &TensorError{File: scale.File, Tensor: scale.Name, Expected: "scales for " + t.Name + ", " + d.expected(shape),
			Found: fmt.Sprint(scale.Shape)}
	}
	r := &scaledReader{name: t.Name, codes: t.Data, code: c, scaleName: scale.Name, scales: scale.Data, kind: kind, grid: g, out: elemOf(out)}
	parts := []*Tensor{t, scale}
	module, leaf := split(t.Name)
	if zp := d.byName[t.Name+"_zero_point"]; zp != nil && c == codeI8 {
		if zp.DType != safetensors.I8 || !slices.Equal(zp.Shape, scale.Shape) {
			return &TensorError{File: zp.File, Tensor: zp.Name, Expected: fmt.Sprintf("I8 %v", scale.Shape), Found: fmt.Sprintf("%v %v", zp.DType, zp.Shape)}
		}
		r.zeros, parts = &zeroPoints{t: zp}, append(parts, zp)
	}
	if c == codeE2M1 && d.cfg.method == modelopt {
		second, err := d.modeloptLevel2(t, r)
		if err != nil {
			return err
		}
		parts = append(parts, second)
	}
	err := d.add(Logical{Name: t.Name, Shape: shape, DType: out, reader: newElements(r, r.out.Size(), elems(shape))},
		c.String()+" "+form, parts...)
	if err != nil {
		return err
	}
	if leaf == "weight" {
		d.dropActivations(module)
	}
	d.drop(t.Name+"_activation_scale", strings.TrimSuffix(t.Name, ".weight")+".activation_scale",
		strings.TrimSuffix(t.Name, ".weight")+"_activation_scale")
	return nil
}

// activations name what quantizes the inputs and outputs of a module.
var activations = []string{"input_scale", "input_scale_ub", "input_global_scale", "input_zero_point", "activation_scale",
	"output_scale", "output_zero_point", "qscale_act", "comfy_quant"}

// dropActivations drops them.
func (d *detector) dropActivations(module string) {
	for _, leaf := range activations {
		if d.leaves[leaf] { // else there is no need to make the name, for each of a hundred thousand modules
			d.drop(module + leaf)
		}
	}
}

// scaleKind says how scales are read and what dtype the reference multiplies in.
func (d *detector) scaleKind(t safetensors.DType) (kind scaleKind, out safetensors.DType, ok bool) {
	switch t {
	case safetensors.F32:
		kind, out = scaleF32, safetensors.F32
	case safetensors.BF16:
		kind, out = scaleBF16, safetensors.BF16
	case safetensors.F16:
		kind, out = scaleF16, safetensors.F16
	case safetensors.F8_E8M0:
		kind, out = scaleE8M0, safetensors.BF16
	case safetensors.U8:
		kind, out = scaleExponent, safetensors.BF16
	case safetensors.F8_E4M3:
		return scaleE4M3, safetensors.F32, d.cfg.method == modelopt
	default:
		return 0, 0, false
	}
	if d.cfg.method != "compressed-tensors" {
		out = safetensors.F32
	}
	return kind, out, true
}

func elemOf(d safetensors.DType) kernel.Elem {
	switch d {
	case safetensors.BF16:
		return kernel.BF16
	case safetensors.F16:
		return kernel.F16
	}
	return kernel.F32
}

// gridOf fits the shape of the scales to the shape of the weight and describes the fit. Leading dimensions (experts)
// must agree, or there is one scale for all.
func (d *detector) gridOf(w, s []int64) (g grid, form string, ok bool) {
	rows, cols, lead := int64(1), int64(1), []int64(nil)
	switch n := len(w); n {
	case 0:
	case 1:
		cols = w[0]
	default:
		rows, cols, lead = w[n-2], w[n-1], w[:n-2]
	}
	if elems(s) == 1 {
		total := elems(lead) * rows
		return grid{rows: total, cols: cols, blockRows: max(total, 1), blockCols: max(cols, 1), scaleRows: 1, scaleCols: 1}, "per tensor", true
	}
	g = grid{rows: rows, cols: cols}
	switch k := len(lead); {
	case len(w) < 2 || len(s) < k || !slices.Equal(s[:k], lead):
		return g, "", false
	case len(s) == k+2:
		g.scaleRows, g.scaleCols = s[k], s[k+1]
	case len(s) == k+1 && s[k] == rows: // [out] for [out, 1]
		g.scaleRows, g.scaleCols = rows, 1
	case len(s) == k:
		g.scaleRows, g.scaleCols = 1, 1
	default:
		return g, "", false
	}
	if g.scaleRows == 0 || g.scaleCols == 0 {
		return g, "", false
	}
	form, ok = d.fit(&g, len(lead) > 0)
	return g, form, ok
}

// fit finds the block size of a grid. A size that the config states goes before any that the shapes suggest.
func (d *detector) fit(g *grid, stacked bool) (form string, ok bool) {
	set := func(rows, cols int64) { g.blockRows, g.blockCols = rows, cols }
	if d.cfg.method == "fbgemm_fp8" && stacked {
		// Stacked experts lie [in, out], under one scale for each out, and down_proj's scales are stored the other way
		// round (transformers integrations/fbgemm_fp8.py, FbgemmFp8Llama4TextExperts).
		if g.scaleRows == g.cols && g.scaleCols == 1 {
			g.scaleRows, g.scaleCols = 1, g.cols
		}
		if g.scaleRows == 1 && g.scaleCols == g.cols {
			set(g.rows, 1)
			return "per channel", true
		}
		return "", false
	}
	for _, b := range d.cfg.blocks {
		if g.scaleRows == ceilDiv(g.rows, b[0]) && g.scaleCols == ceilDiv(g.cols, b[1]) {
			set(b[0], b[1])
			return fmt.Sprintf("in blocks of %dx%d", b[0], b[1]), true
		}
	}
	divides := g.rows%g.scaleRows == 0 && g.cols%g.scaleCols == 0
	if divides {
		set(g.rows/g.scaleRows, g.cols/g.scaleCols)
	}
	switch group := g.cols / g.scaleCols; {
	case g.scaleRows == g.rows && g.scaleCols == 1:
		return "per channel", true
	case g.scaleRows == 1 && g.scaleCols == 1:
		return "per expert", true
	case !divides || d.cfg.method == "fbgemm_fp8":
		return "", false
	case g.scaleRows == g.rows && (len(d.cfg.groups) == 0 && d.cfg.method != "compressed-tensors" || slices.Contains(d.cfg.groups, group)):
		// transformers takes any grid that divides the shape: DeepSeek-V4 has groups of 32 for its experts beside
		// blocks of 128x128 for the rest.
		return fmt.Sprintf("in groups of %d", group), true
	case d.cfg.divide:
		return fmt.Sprintf("in blocks of %dx%d", g.blockRows, g.blockCols), true
	}
	return "", false
}

// expected describes the scales that would fit a weight.
func (d *detector) expected(w []int64) string {
	if n := len(w); n >= 2 && len(d.cfg.blocks) > 0 {
		b := d.cfg.blocks[0]
		return fmt.Sprintf("%v in blocks of %dx%d", append(slices.Clone(w[:n-2]), ceilDiv(w[n-2], b[0]), ceilDiv(w[n-1], b[1])), b[0], b[1])
	}
	return fmt.Sprintf("one for the tensor, one a row or one a block of %v", w)
}

// leftovers drops the scales of the key-value cache and refuses scales of weights that are not there.
func (d *detector) leftovers(tensors []Tensor) error {
	for i := range tensors {
		t := &tensors[i]
		if d.out.consumed[t.Name] {
			continue
		}
		module, leaf := split(t.Name)
		switch leaf {
		case "k_scale", "v_scale", "q_scale", "kv_scale", "prob_scale", "prob_output_scale":
			if elems(t.Shape) == 1 || d.cfg.kvScheme {
				d.drop(t.Name)
			}
			continue
		}
		if leaf == "weight_zero_point" {
			return d.cfg.unsupported(t.Name, "zero points of a weight that is not of integers")
		}
		weight, orphan := strings.CutSuffix(t.Name, "_scale_inv")
		if !orphan && (leaf == "weight_scale" || leaf == "qscale_weight") {
			weight, orphan = module+"weight", true
		}
		if !orphan {
			continue
		}
		e := &TensorError{File: t.File, Tensor: t.Name, Expected: "the FP8 weight " + weight, Found: "no such tensor"}
		if w, ok := d.byName[weight]; ok {
			e.Found = "it in " + w.DType.String()
		}
		return e
	}
	return nil
}

func ceilDiv(a, b int64) int64 { return a/b + min(a%b, 1) }
