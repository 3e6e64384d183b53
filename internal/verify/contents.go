package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// rangeBytes is how much of a tensor one task reads, a multiple of every block's bytes of codes.
const rangeBytes = 1 << 20

// scratch is the memory of one worker.
type scratch struct {
	buf   []byte    // a range of a file
	buf2  []byte    // a range of the source
	run   []byte    // the range in the run dtype
	codes []byte    // derived codes
	abs   []float32 // scales of a range

	scaleCodes, stored []byte // codes of scales as derived, and constants as stored
	nested, floats     []float32
}

func newScratch() *scratch { return &scratch{buf: make([]byte, rangeBytes)} }

// grow returns n elements at *p, allocated once.
func grow[T any](p *[]T, n int) []T {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	return (*p)[:n]
}

// contents checks every code and constant of every quantized weight.
func (r *Report) contents(ctx context.Context, groups *fourbit.Groups, opt Options) error {
	found, words := make([][]Finding, len(groups.Weights)), make([]nanWords, len(groups.Weights))
	progress := opt.progress()
	err := stream.Run(ctx, opt.Stream, newScratch, len(groups.Weights), func(i int) int64 {
		return groups.Weights[i].Size.Nested * 4
	}, func(i int, each stream.Each[*scratch]) error {
		c := &content{w: groups.Weights[i], absmax: !r.searched}
		if err := c.check(each, func(n int64) { progress(c.w.Name, n) }); err != nil {
			return err
		}
		found[i], words[i] = c.found, c.words
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		r.Findings = append(r.Findings, f...)
	}
	r.nans(groups, words)
	return nil
}

// nanWords counts the words of packed codes that are labelled as floats, and the NaNs among them.
type nanWords struct{ all, nan int64 }

// nans tells of codes that not every copy leaves as they are.
func (r *Report) nans(groups *fourbit.Groups, words []nanWords) {
	var sum nanWords
	first := -1
	for i, n := range words {
		sum.all += n.all
		sum.nan += n.nan
		if n.nan > 0 && first < 0 {
			first = i
		}
	}
	if first < 0 {
		return
	}
	w := groups.Weights[first].Packed
	r.find(fourbit.Notice, w.Shard, w.Name, "packed codes: %d of %d words in all weights, this the first, are NaNs as %s: a copy that makes all NaNs alike, "+
		"as some of FSDP's do, changes them; convert writes none", sum.nan, sum.all, w.DType)
}

// content checks one weight.
type content struct {
	w      *fourbit.Weight
	absmax bool // scales may be expected to be largest magnitudes
	found  []Finding
	words  nanWords
}

func (c *content) add(s fourbit.Severity, t fourbit.Tensor, format string, args ...any) {
	c.found = append(c.found, Finding{Severity: s, Kind: format, File: t.Shard, Tensor: t.Name, Text: fmt.Sprintf(format, args...)})
}

func (c *content) check(each stream.Each[*scratch], progress func(int64)) error {
	scales, err := newScales(c.w)
	if err != nil {
		return err
	}
	c.constants(scales)
	if err := c.scales(each, scales); err != nil {
		return err
	}
	progress(c.w.Absmax.Size())
	return c.codes(each, progress)
}

// constants checks what a weight has few of.
func (c *content) constants(s *scales) {
	for i, m := range s.nested {
		if !finite(m) {
			c.add(fourbit.Error, c.w.NestedAbsmax, "entry %d: expected a finite number, found %v", i, m)
			return
		}
	}
	for i, m := range s.nested {
		if m < 0 {
			c.add(fourbit.Notice, c.w.NestedAbsmax, "entry %d: expected a magnitude, found %v", i, m)
			return
		}
	}
}

// scales checks that every scale that a loader decodes is finite. A negative one is legal.
func (c *content) scales(each stream.Each[*scratch], s *scales) error {
	n := c.w.Size.Blocks
	tasks := int((n + scaleTask - 1) / scaleTask)
	bad := make([]int64, tasks)
	value := make([]float32, tasks)
	err := each(tasks, func(w *scratch, i int) error {
		first := int64(i) * scaleTask
		abs := grow(&w.abs, int(min(scaleTask, n-first)))
		bad[i] = -1
		if err := s.read(w, abs, first); err != nil {
			return err
		}
		for k, a := range abs {
			if !finite(a) {
				bad[i], value[i] = first+int64(k), a
				break
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, at := range bad {
		if at >= 0 {
			c.add(fourbit.Error, c.w.Absmax, "the scale of block %d decodes to %v, expected a finite number", at, value[i])
			return nil
		}
	}
	return nil
}

// codes checks the padding of an odd count, and that each block has a code of +1 or -1: with the largest magnitude as the
// scale, its element has that code.
func (c *content) codes(each stream.Each[*scratch], progress func(int64)) error {
	w := c.w
	var has [256]bool // a byte with a code of magnitude 1
	table := nf4.Codebook(w.State.Type)
	for b := range has {
		has[b] = math.Abs(float64(table[b>>4])) == 1 || math.Abs(float64(table[b&15])) == 1
	}
	zero := byte(0x77)
	if w.State.Type == nf4.FP4 {
		zero = 0x00
	}
	blockBytes := w.State.BlockSize / 2
	tasks := int((w.Size.Packed + rangeBytes - 1) / rangeBytes)
	loose := make([]int64, tasks) // blocks
	storage, _ := bnb.StorageOf(w.Packed.DType)
	words, nans := quantize.WordsOf(storage), make([]int64, tasks)
	var pad byte
	err := each(tasks, func(s *scratch, i int) error {
		off := int64(i) * rangeBytes
		p := s.buf[:min(rangeBytes, w.Size.Packed-off)]
		if err := stream.ReadFull(w.Packed, p, off); err != nil {
			return fmt.Errorf("%s: read %s: %w", w.Packed.Shard, w.Name, err)
		}
		if off+int64(len(p)) == w.Size.Packed {
			pad = p[len(p)-1] & 15
		}
		progress(int64(len(p)))
		if words != nil {
			nans[i] = words.Count(p)
		}
		for len(p) > 0 {
			block := p[:min(blockBytes, len(p))]
			p = p[len(block):]
			found, zeros := false, true
			for _, b := range block {
				if has[b] {
					found = true
					break
				}
				zeros = zeros && b == zero
			}
			if !found && !zeros {
				loose[i]++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var n int64
	for i, k := range loose {
		n += k
		c.words.nan += nans[i]
	}
	if words != nil {
		c.words.all = words.Of(w.Size.Packed)
	}
	if n > 0 && c.absmax && words == nil { // where a NaN was avoided, the code of the largest may be another
		c.add(fourbit.Notice, w.Packed, "%d of %d blocks have no code of +1 or -1: their scales are no largest magnitudes, as after a search for better ones",
			n, w.Size.Blocks)
	}
	if w.Size.Elems%2 != 0 && pad != zero&15 {
		c.add(fourbit.Notice, w.Packed, "padding: expected the code %d after an odd number of elements, found %d", zero&15, pad)
	}
	return nil
}

// scales decodes the scales of one weight.
type scales struct {
	w      *fourbit.Weight
	nested []float32 // nil without double quantization
	table  []float32
}

// scaleTask is how many scales one task decodes, a multiple of every nested block size.
const scaleTask = 1 << 16

func newScales(w *fourbit.Weight) (*scales, error) {
	s := &scales{w: w}
	if w.State.NoDoubleQuant {
		return s, nil
	}
	var err error
	if s.nested, err = floats(w.NestedAbsmax); err != nil {
		return nil, err
	}
	s.table, err = floats(w.NestedQuantMap)
	return s, err
}

// read decodes scales from first on: as stored, or map[code]*nested + offset, each operation rounded to float32.
func (s *scales) read(w *scratch, dst []float32, first int64) error {
	size := int64(4)
	if s.nested != nil {
		size = 1
	}
	p := grow(&w.buf2, len(dst)*int(size))
	if err := stream.ReadFull(s.w.Absmax, p, first*size); err != nil {
		return fmt.Errorf("%s: read %s: %w", s.w.Absmax.Shard, s.w.Absmax.Name, err)
	}
	if s.nested == nil {
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
		}
		return nil
	}
	group := int64(s.w.State.NestedBlockSize)
	for i, code := range p {
		dst[i] = float32(s.table[code]*s.nested[(first+int64(i))/group]) + s.w.State.NestedOffset
	}
	return nil
}

// floats reads a tensor of float32 values whose size package bnb has checked.
func floats(t fourbit.Tensor) ([]float32, error) {
	b := make([]byte, t.Size())
	if err := stream.ReadFull(t, b, 0); err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", t.Shard, t.Name, err)
	}
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v, nil
}

func finite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }
