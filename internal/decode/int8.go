package decode

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// int8 finds the weights of LLM.int8 (arXiv 2208.07339): M.weight I8 [out, in], M.SCB F32 [out] and, from most
// versions, M.weight_format U8 [] (bitsandbytes nn/modules.py, Linear8bitLt). Conv1D weights are stored as [out, in]
// too, transposed against the unquantized checkpoint.
func (d *detector) int8(tensors []Tensor) error {
	for i := range tensors {
		t := &tensors[i]
		module, leaf := split(t.Name)
		scb, ok := d.byName[module+"SCB"]
		switch {
		case strings.Contains(t.Name, "quant_state.bitsandbytes__"):
			return d.cfg.unsupported(t.Name, "4-bit weights are read by the packages for bitsandbytes' own format")
		case leaf == "SCB":
			if w, ok := d.byName[module+"weight"]; !ok || w.DType != safetensors.I8 {
				e := &TensorError{File: t.File, Tensor: t.Name, Expected: "the I8 weight " + module + "weight", Found: "no such tensor"}
				if ok {
					e.Found = "it in " + w.DType.String()
				}
				return e
			}
		case leaf != "weight" || t.DType != safetensors.I8:
		case !ok:
			return &TensorError{File: t.File, Tensor: t.Name, Expected: "its scales " + module + "SCB", Found: "no such tensor"}
		default:
			if err := d.int8Weight(t, scb, d.byName[module+"weight_format"]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *detector) int8Weight(t, scb, format *Tensor) error {
	if len(t.Shape) != 2 {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "a shape [out, in]", Found: fmt.Sprint(t.Shape)}
	}
	if scb.DType != safetensors.F32 || !slices.Equal(scb.Shape, t.Shape[:1]) {
		return &TensorError{File: scb.File, Tensor: scb.Name, Expected: fmt.Sprintf("F32 [%d], one scale for each row of %s", t.Shape[0], t.Name),
			Found: fmt.Sprintf("%v %v", scb.DType, scb.Shape)}
	}
	r := &scaledReader{name: t.Name, codes: t.Data, code: codeI8, scaleName: scb.Name, scales: scb.Data, kind: scaleF32, over127: true,
		out: kernel.F32, grid: grid{rows: t.Shape[0], cols: t.Shape[1], blockRows: 1, blockCols: max(t.Shape[1], 1), scaleRows: t.Shape[0], scaleCols: 1}}
	parts := []*Tensor{t, scb}
	if format != nil {
		if format.DType != safetensors.U8 || elems(format.Shape) != 1 {
			return &TensorError{File: format.File, Tensor: format.Name, Expected: "U8 []", Found: fmt.Sprintf("%v %v", format.DType, format.Shape)}
		}
		r.check = sync.OnceValue(func() error { return checkFormat(format) })
		d.out.checks = append(d.out.checks, r.check)
		parts = append(parts, format)
	}
	return d.add(Logical{Name: t.Name, Shape: slices.Clone(t.Shape), DType: safetensors.F32, reader: newElements(r, 4, elems(t.Shape))},
		"by row", parts...)
}

// checkFormat: 0 is row-major; the others, of before bitsandbytes 0.45, are tiled for a generation of GPUs.
func checkFormat(t *Tensor) error {
	var b [1]byte
	if err := stream.ReadFull(t.Data, b[:], 0); err != nil {
		return fmt.Errorf("read %s: %w", t.Name, err)
	}
	if b[0] != 0 {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "0, row-major", Found: fmt.Sprint(b[0])}
	}
	return nil
}
