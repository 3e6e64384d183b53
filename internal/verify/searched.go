package verify

import (
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Inputs are what scales were weighted with when they were chosen.
type Inputs struct {
	Identity string // as nf4kit.json records it
	// Columns are the mean squares of the inputs of a weight; nil if they are not known.
	Columns func(weight string, columns int64) ([]float32, error)
}

// methods says how the scales of each weight of a checkpoint with a manifest were chosen. ok is false, and a finding says why,
// where they cannot be derived again.
func (r *Report) methods(m *manifest.Manifest, in *Inputs) (of func(weight string) bnb.Scale, ok bool) {
	fail := func(format string, args ...any) (func(string) bnb.Scale, bool) {
		r.find(fourbit.Warning, manifest.Name, "", format, args...)
		return nil, false
	}
	var scale bnb.Scale
	if s := m.Settings["scale"]; s != "" {
		var err error
		if scale, err = bnb.ParseScale(s); err != nil {
			return fail("settings: scales chosen by %q cannot be derived again: this program knows no such method", s)
		}
	}
	var rules []convert.Rule
	if text := m.Settings["rule"]; strings.Contains(text, "scale=") {
		for line := range strings.SplitSeq(text, "\n") {
			rule, err := convert.ParseRule(line)
			if err != nil {
				return fail("settings: scales chosen by rules cannot be derived again: %v", err)
			}
			rules = append(rules, rule)
		}
	}
	for _, flag := range []string{"imatrix", "activations"} {
		want := m.Settings[flag]
		switch {
		case want == "":
		case in == nil:
			return fail("settings: the scales were weighted with a file, without which they cannot be derived again: give it with --%s", flag)
		case in.Identity != want:
			return fail("settings: the scales were weighted with another file of --%s: expected %s, found %s", flag, want, in.Identity)
		}
	}
	return func(weight string) bnb.Scale {
		for i := range rules {
			if rules[i].Pattern.MatchString(weight) {
				return rules[i].Change.Apply(bnb.Format{Scale: scale}).Scale
			}
		}
		return scale
	}, true
}

// scalesChosen tells whether a manifest names another method than absmax.
func scalesChosen(m *manifest.Manifest) bool {
	return m.Settings["scale"] != "" || strings.Contains(m.Settings["rule"], "scale=")
}

// searched tells whether the weight's scales come from a search.
func (d *derivation) searched() bool { return d.scale != bnb.AbsMax }

// searchScales derives the scales of elements.
func (d *derivation) searchScales(w *scratch, in quantize.Inputs, first int64, n int) error {
	run, err := d.values(w, first, n)
	if err != nil {
		return err
	}
	quantize.Searched{Signed: d.scale != bnb.MSE}.Scales(d.panel(in, run, first, n), d.scales(d.absmax, first, n), nil)
	return nil
}

func (d *derivation) panel(in quantize.Inputs, run []byte, first int64, n int) *quantize.Panel {
	return &quantize.Panel{First: first, N: n, Cols: d.shape[len(d.shape)-1], Values: run, Elem: d.run, Type: d.ktype, BlockSize: d.block, Inputs: in}
}

// inputs are those of the weight.
func (d *derivation) inputs(each stream.Each[*scratch]) (in quantize.Inputs, err error) {
	var moments []float32
	if d.known != nil {
		if moments, err = d.known.Columns(d.w.Name, d.shape[len(d.shape)-1]); err != nil {
			return in, err
		}
	}
	if moments != nil || d.scale != bnb.MSEColumns {
		return quantize.InputsOf(moments)
	}
	cols := d.shape[len(d.shape)-1]
	err = each(1, func(w *scratch, _ int) error {
		in, err = quantize.InputsOwn(d.n/cols, cols, func(first int64, x []float32) error {
			run, err := d.values(w, first, len(x))
			if err == nil {
				kernel.Widen(x, run, d.run)
			}
			return err
		})
		return err
	})
	return in, err
}

// searchedCodes derives the codes of elements for the scales that are decoded.
func (d *derivation) searchedCodes(w *scratch, first int64, n int) error {
	run, err := d.values(w, first, n)
	if err != nil {
		return err
	}
	want := grow(&w.codes, (n+1)/2)
	scale := d.scales(d.decoded, first, n)
	quantize.Searched{}.Codes(d.panel(quantize.Inputs{}, run, first, n), scale, want)
	return d.compareCodes(w, want, run, scale, first, n)
}

// feedbackCodes sums the error of stored codes that are not derived, beside that of the nearest ones.
func (d *derivation) feedbackCodes(w *scratch, first int64, n int) error {
	run, err := d.values(w, first, n)
	if err != nil {
		return err
	}
	stored := w.buf[:(n+1)/2]
	if err := stream.ReadFull(d.w.Packed, stored, first/2); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.Packed.Shard, d.w.Name, err)
	}
	d.progress(d.w.Name, int64(len(stored)))
	scale, nearest := d.scales(d.decoded, first, n), grow(&w.codes, (n+1)/2)
	quantize.Searched{}.Codes(d.panel(quantize.Inputs{}, run, first, n), scale, nearest)
	x, v, one := grow(&w.floats, n), grow(&w.nested, n), []float32{1}
	kernel.Widen(x, run, d.run)
	kernel.DequantizeF32(d.ktype, v, stored, scale, d.block)
	e := kernel.WeightedSquares(x, v, one, 0)
	kernel.DequantizeF32(d.ktype, v, nearest, scale, d.block)
	least := kernel.WeightedSquares(x, v, one, 0)
	d.feedback[first/step] = feedbackError{kernel.WeightedSquares(x, nil, one, 0), e, least}
	return nil
}

// feedbackError is sums of squares: of the weights, of the error of their codes, and of that of the nearest codes.
type feedbackError struct{ weights, stored, nearest float64 }

// mostOfWeights is the most of a weight's sum of squares that codes by feedback may lose: codes of 0 lose as much, and those of
// another weight twice as much. Some 0.02 was seen.
const mostOfWeights = 1

// endFeedback says what codes are that lose more than any feedback makes them.
func (d *derivation) endFeedback() {
	for _, e := range d.feedback {
		d.lost.weights += e.weights
		d.lost.stored += e.stored
		d.lost.nearest += e.nearest
	}
	if d.lost.stored > mostOfWeights*d.lost.weights {
		d.add(fourbit.Error, d.w.Packed, "codes by feedback: expected a squared error of at most %v of the weights' squares, found %.3g",
			mostOfWeights, d.lost.stored/d.lost.weights)
		d.wrong++
	}
}

// codesByFeedback says what of such weights is proven.
func (r *Report) codesByFeedback(weights int, e feedbackError) {
	r.find(fourbit.Notice, manifest.Name, "", "settings: codes chosen by feedback are not derived again; of %d weights the constants are, and the codes leave %.3g of the "+
		"weights' squares as error, the nearest would leave %.3g", weights, ratio(e.stored, e.weights), ratio(e.nearest, e.weights))
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
