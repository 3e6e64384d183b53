package verify

import (
	"bytes"
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/search"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// derivation is the quantization of one weight done again.
type derivation struct {
	*prover
	ktype     kernel.Type
	run       kernel.Elem
	block     int
	n         int64
	rank      [16]int // of a code, in order of value
	threshold [15]float32
	offset    float32 // of the file
	mean      doublequant.Mean
	inOrder   stream.InOrder[float32] // scales, for mean
	absmax    []float32               // where a range has no whole group of scales, or they are searched for; nil otherwise
	decoded   []float32               // of a method that is not absmax: what the scales decode to
	feedback  []feedbackError         // of each range, where codes are by feedback

	wrongConst mismatch[float32] // scales, or what the second level has one of for a group
	scaleCodes mismatch[byte]
}

// largestInRange is the largest block of which a range has whole groups of scales.
const largestInRange = step / doublequant.BlockSize

// mismatch counts values that are wrong, and keeps the first.
type mismatch[T any] struct {
	n, at     int64
	want, got T
}

func (m *mismatch[T]) add(n, at int64, want, got T) {
	if n > 0 && (m.n == 0 || at < m.at) {
		m.at, m.want, m.got = at, want, got
	}
	m.n += n
}

func (d *derivation) order(order [16]uint8, threshold [15]float32) {
	for r, c := range order {
		d.rank[c] = r
	}
	d.threshold = threshold
}

// values reads elements of the source in the run dtype.
func (d *derivation) values(w *scratch, first int64, n int) ([]byte, error) {
	src := grow(&w.buf2, n*d.src.Elem().Size())
	if err := d.src.Read(src, first); err != nil {
		return nil, err
	}
	if d.src.Elem() == d.run {
		return src, nil
	}
	run := grow(&w.run, n*d.run.Size())
	overflow, nonFinite := kernel.Convert(run, d.run, src, d.src.Elem(), n)
	at := overflow
	if at < 0 || nonFinite >= 0 && nonFinite < at { // the first of two, as convert says it
		at = nonFinite
	}
	if at >= 0 {
		return nil, &weights.ValueError{File: d.src.File, Tensor: d.src.Name, Index: first + int64(at), Shape: d.src.Shape,
			Value: weights.ValueAt(src, d.src.Elem(), at),
			DType: map[kernel.Elem]safetensors.DType{kernel.BF16: safetensors.BF16, kernel.F16: safetensors.F16}[d.run]}
	}
	return run, nil
}

// codes derives scales and codes by absmax.
func (d *derivation) codes(w *scratch, first int64, n int) error {
	run, err := d.values(w, first, n)
	if err != nil {
		return err
	}
	var abs []float32
	if d.absmax != nil {
		abs = d.scales(d.absmax, first, n)
	} else {
		abs = grow(&w.abs, (n+d.block-1)/d.block)
	}
	want := grow(&w.codes, (n+1)/2)
	kernel.Quantize(d.ktype, d.run, want, abs, run, d.block)
	if err := d.compareCodes(w, want, run, abs, first, n); err != nil || d.absmax != nil {
		return err
	}
	d.inOrder.Put(int(first/step), abs)
	return d.compareScales(w, first/int64(d.block), abs)
}

// scales are those of elements.
func (d *derivation) scales(all []float32, first int64, n int) []float32 {
	return all[first/int64(d.block):][:(n+d.block-1)/d.block]
}

// compareCodes compares the codes of elements, whose values are run, with those stored.
func (d *derivation) compareCodes(w *scratch, want, run []byte, scale []float32, first int64, n int) error {
	got := w.buf[:len(want)]
	if err := stream.ReadFull(d.w.Packed, got, first/2); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.Packed.Shard, d.w.Name, err)
	}
	d.progress(d.w.Name, int64(len(got)))
	if bytes.Equal(got, want) {
		return nil
	}
	// Words that would be NaNs in the dtype of the codes are others where the file was written without any.
	if storage, _ := bnb.StorageOf(d.w.Packed.DType); storage != bnb.UInt8 {
		quantize.WordsOf(storage).Free(d.panel(quantize.Inputs{}, run, first, n), scale, want, got)
		if bytes.Equal(got, want) {
			return nil
		}
	}
	d.differences(got, want, run, scale, first, n)
	return nil
}

// differences goes through a range code by code.
func (d *derivation) differences(got, want, run []byte, abs []float32, first int64, n int) {
	var tol Tolerated
	var wrong, at int64
	var x [1]float32
	size := d.run.Size()
	for i := range 2 * len(want) {
		g, v := got[i/2]>>4, want[i/2]>>4
		if i%2 == 1 {
			g, v = got[i/2]&15, want[i/2]&15
		}
		if g == v {
			continue
		}
		ok := false
		switch {
		case d.exact:
		case i >= n:
			tol.Padding++
			ok = true
		case d.ktype == kernel.FP4 && g&7 == 0 && v&7 == 0:
			tol.ZeroCodes++
			ok = true
		default:
			kernel.Widen(x[:], run[i*size:][:size], d.run)
			if ok = d.near(g, v, float64(x[0]), float64(abs[i/d.block])); ok {
				tol.NearCodes++
			}
		}
		if !ok {
			if wrong == 0 {
				at = first + int64(i)
			}
			wrong++
		}
	}
	d.note(wrong, at)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Tolerated.add(&tol)
}

// near reports whether the codes g and v are neighbours and x/a, exactly, is near the threshold between them.
func (d *derivation) near(g, v uint8, x, a float64) bool {
	lo, hi := min(d.rank[g], d.rank[v]), max(d.rank[g], d.rank[v])
	return hi-lo == 1 && a > 0 && math.Abs(x/a-float64(d.threshold[lo])) <= nearThreshold
}

// compareScales compares the scales of blocks from first on, the first of a group, with what is stored. As they are
// they are largest magnitudes: nothing rounds.
func (d *derivation) compareScales(w *scratch, first int64, abs []float32) error {
	if d.w.State.NoDoubleQuant {
		return d.compareFloats(w, d.w.Absmax, first, abs)
	}
	if d.w.State.NestedBlockSize != doublequant.BlockSize {
		return nil
	}
	want, nested := grow(&w.scaleCodes, len(abs)), grow(&w.nested, doublequant.NestedLen(len(abs)))
	table := doublequant.Map()
	if d.searched() { // abs are all scales
		if quantize.FitsMap(d.w.Name) {
			f := new(search.MapFit)
			f.Add(abs, d.offset)
			table = f.Map()
		}
	}
	if d.searched() || first == 0 {
		if err := d.compareTable(&table); err != nil {
			return err
		}
	}
	kernel.MapQuantize(&table, want, nested, abs, d.offset)
	if d.searched() {
		d.decoded = make([]float32, len(abs))
		kernel.MapDequantize(&table, d.decoded, want, nested, d.offset)
	}
	if err := d.compareFloats(w, d.w.NestedAbsmax, first/doublequant.BlockSize, nested); err != nil {
		return err
	}
	got := grow(&w.stored, len(want))
	if err := stream.ReadFull(d.w.Absmax, got, first); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.Absmax.Shard, d.w.Absmax.Name, err)
	}
	if !bytes.Equal(got, want) {
		d.compareScaleCodes(got, want, first, abs, nested)
	}
	return nil
}

// compareTable compares the 8-bit map. That of others may be rounded otherwise.
func (d *derivation) compareTable(want *[256]float32) error {
	raw := make([]byte, 4*len(want))
	if err := stream.ReadFull(d.w.NestedQuantMap, raw, 0); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.NestedQuantMap.Shard, d.w.NestedQuantMap.Name, err)
	}
	var got [256]float32
	kernel.Widen(got[:], raw, kernel.F32)
	for i := range want {
		if math.Float32bits(got[i]) == math.Float32bits(want[i]) {
			continue
		}
		if near := nearOffset * math.Abs(float64(want[i])); d.exact || !(math.Abs(float64(got[i])-float64(want[i])) <= near) {
			d.wrongScales++
			d.add(fourbit.Error, d.w.NestedQuantMap, "the map differs from that derived from the source, first at code %d: expected %v, found %v", i, want[i], got[i])
			return nil
		}
	}
	return nil
}

// leastScale is what bitsandbytes stores for a short group of scales that are all their mean, as the one scale of a weight of a
// single block is, where there is nothing to scale: the offset alone decodes them.
const leastScale float32 = 1e-38

// compareFloats compares constants from first on.
func (d *derivation) compareFloats(w *scratch, t fourbit.Tensor, first int64, want []float32) error {
	raw, got := grow(&w.stored, 4*len(want)), grow(&w.floats, len(want))
	if err := stream.ReadFull(t, raw, 4*first); err != nil {
		return fmt.Errorf("%s: read %s: %w", t.Shard, t.Name, err)
	}
	kernel.Widen(got, raw, kernel.F32)
	var m mismatch[float32]
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(want[i] == 0 && got[i] == leastScale && !d.exact && !d.w.State.NoDoubleQuant) {
			m.add(1, first+int64(i), want[i], got[i])
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wrongConst.add(m.n, m.at, m.want, m.got)
	return nil
}

// compareScaleCodes compares the codes of the scales.
func (d *derivation) compareScaleCodes(got, want []byte, first int64, abs, nested []float32) {
	table := doublequant.Map()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range want {
		if got[i] == want[i] {
			continue
		}
		if m := nested[i/doublequant.BlockSize]; !d.exact && nearScale(&table, got[i], abs[i]-d.offset, m) {
			d.NestedCodes++
			if math.Abs(float64(abs[i]-d.offset)) > nearLookup*float64(m) {
				d.offCenter++
			}
			continue
		}
		d.scaleCodes.add(1, first+int64(i), want[i], got[i])
	}
}

// end says what was found of the scales: of the offset, which the second level is derived with as it is in the file, also
// if it is another's, and of the constants and codes.
func (d *derivation) end() {
	blocks := d.w.Size.Blocks
	if d.w.State.NoDoubleQuant {
		d.report(d.w.Absmax, blocks, "block")
		return
	}
	if offset, stored := d.mean.Offset(), d.offset; stored != offset {
		diff := math.Abs(float64(stored) - float64(offset))
		if d.exact || !(diff <= nearOffset*math.Abs(float64(offset))) {
			d.wrongScales++
			d.add(fourbit.Error, d.w.QuantState, "nested_offset: expected %v as derived from the source, found %v", offset, stored)
		} else {
			d.Offsets++
			d.MaxOffset = diff
		}
	}
	if d.w.State.NestedBlockSize != doublequant.BlockSize {
		d.add(fourbit.Warning, d.w.Absmax, "not proven: nested_blocksize %d, expected %d", d.w.State.NestedBlockSize, doublequant.BlockSize)
		return
	}
	d.report(d.w.NestedAbsmax, d.w.Size.Nested, "group")
	if m := d.scaleCodes; m.n > 0 {
		d.wrongScales += m.n
		d.add(fourbit.Error, d.w.Absmax, "%d of %d scale codes differ from those derived from the source, the first of block %d: expected %d, found %d",
			m.n, blocks, m.at, m.want, m.got)
	}
}

func (d *derivation) report(t fourbit.Tensor, n int64, what string) {
	if m := d.wrongConst; m.n > 0 {
		d.wrongScales += m.n
		d.add(fourbit.Error, t, "%d of %d constants differ from those derived from the source, the first of %s %d: expected %v, found %v",
			m.n, n, what, m.at, m.want, m.got)
	}
}

// nearScale reports whether the code is the nearest to a scale, less the offset, that is off by no more than bitsandbytes'
// lookup. A group of equal scales has m = 0, where 0/0 makes bitsandbytes' code anything; it decodes to the offset.
func nearScale(table *[256]float32, code byte, scale, m float32) bool {
	if m == 0 {
		return true
	}
	y := float64(scale) / float64(m)
	lo, hi := math.Inf(-1), math.Inf(1)
	if code > 0 {
		lo = (float64(table[code-1]) + float64(table[code])) / 2
	}
	if code < 255 {
		hi = (float64(table[code]) + float64(table[code+1])) / 2
	}
	return lo <= y+nearLookup && y-nearLookup <= hi
}
