package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// plain looks for NaNs in the tensors that belong to no quantized weight, of which there are neither digests nor a source: whatever
// is computed with one is a NaN. Infinities are let pass, since masks are made of them.
func (r *Report) plain(ctx context.Context, tensors []fourbit.Tensor, opt Options) error {
	list := slices.DeleteFunc(slices.Clone(tensors), func(t fourbit.Tensor) bool {
		e, ok := weights.ElemOf(t.DType)
		return !ok || e == kernel.F64
	})
	first := make([]int64, len(list))
	progress := opt.progress()
	err := stream.Run(ctx, opt.Stream, newScratch, len(list), func(int) int64 { return 0 }, func(i int, each stream.Each[*scratch]) error {
		t := list[i]
		e, _ := weights.ElemOf(t.DType)
		step := int64(rangeBytes / e.Size())
		n := t.Elems()
		found := make([]int64, (n+step-1)/step)
		err := each(len(found), func(w *scratch, k int) error {
			at := int64(k) * step
			b := w.buf[:int(min(step, n-at))*e.Size()]
			if err := stream.ReadFull(t, b, at*int64(e.Size())); err != nil {
				return fmt.Errorf("%s: read %s: %w", t.Shard, t.Name, err)
			}
			if found[k] = firstNaN(e, b); found[k] >= 0 {
				found[k] += at
			}
			progress(t.Name, int64(len(b)))
			return nil
		})
		first[i] = -1
		if k := slices.IndexFunc(found, func(at int64) bool { return at >= 0 }); k >= 0 {
			first[i] = found[k]
		}
		return err
	})
	for i, at := range first {
		if err == nil && at >= 0 {
			r.find(fourbit.Error, list[i].Shard, list[i].Name, "element %d is a NaN, and so is what is computed with it", at)
		}
	}
	return err
}

// firstNaN is the first NaN among elements, or -1.
func firstNaN(e kernel.Elem, b []byte) int64 {
	size := e.Size()
	for at := 0; at < len(b)/size; at++ {
		k := kernel.FirstNonFinite(e, b[at*size:], len(b)/size-at)
		if k < 0 {
			break
		}
		at += k
		if v := weights.ValueAt(b, e, at); v != v {
			return int64(at)
		}
	}
	return -1
}
