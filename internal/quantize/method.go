package quantize

import (
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// A Method chooses the scales and the codes of a weight. Its functions are called from several
// goroutines, each with a panel of its own, and must depend on nothing but that.
type Method interface {
	// Needs says what the method takes of a weight.
	Needs(w *Weight) Needs
	// Scales writes the scale of every block of p. A method of one pass writes the codes too, in
	// bitsandbytes' order of nibbles; for one of two, codes is nil.
	Scales(p *Panel, scale []float32, codes []byte)
	// Codes writes the codes of p, for the scales that a loader will decode. It is the second pass.
	Codes(p *Panel, scale []float32, codes []byte)
}

// Needs is what a method takes.
type Needs struct {
	Passes  int   // over the values: 1 or 2
	Rows    bool  // panels are to be whole rows
	FitMap  bool  // the 8-bit map of double quantization is to be made for the scales
	Columns bool  // where no inputs are known, errors are to be weighted by the weight's own columns, see ownWeights
	Memory  int64 // bytes that the method holds while the weight is worked on

	// Exclusive keeps the weights after this one that ask for it waiting, from Prepare to Release: what the method holds on top of
	// Memory is there once. Until then, and after, they are worked on side by side.
	Exclusive bool
}

// A Preparer is a method with work to do between the passes. sample reads elements of the weight, from the first of a block
// on, with their decoded scales; what it returns is good until it is called again. jobs is how many may work.
type Preparer interface {
	Prepare(w *Weight, sample func(first int64, n int) (*Panel, []float32, error), jobs int) error
	Release() // what Prepare holds, after the last codes
}

// An Informed method knows how large the output's errors are from more than second moments.
type Informed interface {
	// Outputs are the sums over the weight, after the last codes; nil where they are not known.
	Outputs() *WeightedSums
}

// A Panel is a part of a weight: a whole number of blocks, except at the end. It is a whole number of
// rows too if the method asked for rows and the shape has such a number that fits the range of a
// worker; Rows is 0 otherwise.
type Panel struct {
	First     int64 // element of the weight
	N         int   // elements
	Rows      int   // of Cols elements
	Cols      int64 // of the weight
	Values    []byte
	Elem      kernel.Elem // of Values
	Type      kernel.Type
	BlockSize int
	Inputs    Inputs
}

// Inputs is what is known of the vectors that a weight is multiplied with.
type Inputs struct {
	Moments []float32 // mean square of each column's; nil: not known
	Shared  *Shared   // with other weights of these inputs; nil: there are none

	// Gram reads mean products, Cols x Cols, row-major, and the same of other inputs, to choose settings on. It is called once,
	// when they are wanted. A nil function, like nil matrices: not known.
	Gram func() (calibration, heldout []float32, err error)

	weights search.Weights
}

// InputsOf are inputs of which the second moments are known, or nothing where moments is nil.
func InputsOf(moments []float32) (in Inputs, err error) {
	in.Moments = moments
	in.weights, err = search.NewWeights(moments)
	return in, err
}

// FitsMap tells whether a weight of that name may have an 8-bit map of its own. Of experts, Unsloth takes what the first of a
// layer has for all of them.
func FitsMap(name string) bool { return !strings.Contains(name, "experts.") }

// For makes the method of a scale, for one weight.
func For(s bnb.Scale) (Method, error) {
	switch s {
	case bnb.AbsMax:
		return Absmax{}, nil
	case bnb.MSE:
		return Searched{}, nil
	case bnb.MSESigned:
		return Searched{Signed: true}, nil
	case bnb.MSEColumns:
		return Columns{Searched{Signed: true}}, nil
	case bnb.Feedback:
		return new(Feedback), nil
	}
	return nil, fmt.Errorf("scale %v: no such method", s)
}

// Absmax is bitsandbytes' method: a block's scale is its largest magnitude, and codes are nearest in
// units of it, before double quantization.
type Absmax struct{}

// Needs is one pass over anything.
func (Absmax) Needs(*Weight) Needs { return Needs{Passes: 1} }

// Scales writes scales and codes.
func (Absmax) Scales(p *Panel, scale []float32, codes []byte) {
	kernel.Quantize(p.Type, p.Elem, codes, scale, p.Values, p.BlockSize)
}

// Codes is not called.
func (Absmax) Codes(*Panel, []float32, []byte) {}
