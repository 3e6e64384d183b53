package verify

import (
	"strings"

	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Inputs are what scales were weighted with when they were chosen.
type Inputs struct {
	Identity string // as nf4kit.json records it
	// Columns are the mean squares of the inputs of a weight; nil if they are not known.
	Columns func(weight string, columns int64) ([]float32, error)
}

// method is how the scales of a checkpoint with a manifest were chosen. ok is false, and a finding says why, where they
// cannot be derived again.
func (r *Report) method(m *manifest.Manifest, in *Inputs) (scale bnb.Scale, ok bool) {
	fail := func(format string, args ...any) (bnb.Scale, bool) {
		r.find(fourbit.Warning, manifest.Name, "", format, args...)
		return 0, false
	}
	if s := m.Settings["scale"]; s != "" {
		var err error
		if scale, err = bnb.ParseScale(s); err != nil {
			return fail("settings: scales chosen by %q cannot be derived again: this program knows no such method", s)
		}
	}
	if strings.Contains(m.Settings["rule"], "scale=") {
		return fail("settings: scales chosen by rules cannot be derived again")
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
	return scale, true
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
func (d *derivation) inputs() (quantize.Inputs, error) {
	if d.known == nil {
		return quantize.Inputs{}, nil
	}
	moments, err := d.known.Columns(d.w.Name, d.shape[len(d.shape)-1])
	if err != nil {
		return quantize.Inputs{}, err
	}
	return quantize.InputsOf(moments)
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

// codesByFeedback says what of such a weight is proven.
func (r *Report) codesByFeedback(weights int) {
	r.find(fourbit.Notice, manifest.Name, "", "settings: codes chosen by feedback are not derived again; of %d weights the constants are", weights)
}
