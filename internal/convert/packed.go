package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// packedParts are the tensors of a weight that is packed in the source as it is to be, by their names in the output, without the
// record; nil if it is not packed so. Quantized again its codes would be the same, but not its scales of two levels.
func packedParts(it *Item, w *fourbit.Weight, entries []safetensors.Entry) map[string]*safetensors.Tensor {
	if w == nil || w.State == nil || w.State.Format != it.Spec || w.State.Stack != it.Stack || w.State.Shape != [2]int64(it.Shape) {
		return nil
	}
	names := it.Spec.Names(it.Name)
	parts := map[string]*safetensors.Tensor{names.Weight: w.Packed.Tensor, names.Absmax: w.Absmax.Tensor, names.QuantMap: w.QuantMap.Tensor}
	if !it.Spec.NoDoubleQuant {
		parts[names.NestedAbsmax], parts[names.NestedQuantMap] = w.NestedAbsmax.Tensor, w.NestedQuantMap.Tensor
	}
	for _, e := range entries {
		if e.Name == names.QuantState {
			continue
		}
		if t := parts[e.Name]; t == nil || t.Size() != groupSize([]safetensors.Entry{e}) {
			return nil
		}
	}
	return parts
}

// copyPacked copies the parts of a weight, and writes its record.
func (x *execution) copyPacked(it *Item, each stream.Each[*quantize.Worker]) error {
	state := it.State(x.plan.runDType)
	if !state.NoDoubleQuant {
		state.NestedOffset = it.offset
	}
	blob, err := state.Encode()
	if err != nil {
		return err
	}
	names := it.Spec.Names(it.Name)
	record, err := x.part(names.QuantState)
	if err != nil {
		return err
	}
	if _, err := record.WriteAt(blob, 0); err != nil {
		return err
	}
	for _, name := range []string{names.Weight, names.Absmax, names.QuantMap, names.NestedAbsmax, names.NestedQuantMap} {
		t := it.packed[name]
		if t == nil {
			continue // of double quantization
		}
		dst, err := x.part(name)
		if err != nil {
			return err
		}
		n := t.Size()
		err = each(int((n+copyBytes-1)/copyBytes), func(w *quantize.Worker, task int) error {
			at := int64(task) * copyBytes
			raw := w.Range()[:min(copyBytes, n-at)]
			if err := stream.ReadFull(t, raw, at); err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			_, err := dst.WriteAt(raw, at)
			return err
		})
		if err != nil {
			return err
		}
	}
	x.advance(it, it.Bytes)
	return nil
}
