package convert

import (
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Inputs is what is known of the vectors that weights are multiplied with, by the names that weights have in the source.
type Inputs interface {
	// Columns are the mean squares of the inputs of a weight, for each of its columns; nil if they are not known. A matrix of
	// another width is an error.
	Columns(weight string, columns int64) ([]float32, error)
	// Gram are Gram matrices of the inputs, of a calibration text and of text held out; nil if they are not known.
	Gram(weight string, columns int64) (calibration, heldout []float32, err error)
}

// checkInputs reads what is known of the inputs of every weight whose scales are searched for, and counts.
func (p *Plan) checkInputs(opt *Options) error {
	p.inputs = opt.Inputs
	var known int
	var unknown []string
	for i := range p.Items {
		it := &p.Items[i]
		if !it.Quantize || it.Spec.Scale == bnb.AbsMax || it.Elems() == 0 {
			continue
		}
		if it.Spec.Scale == bnb.Feedback {
			p.Totals.MethodBytes = max(p.Totals.MethodBytes, quantize.FeedbackMemory(it.Shape[1]))
		}
		if p.inputs == nil {
			continue
		}
		v, err := p.inputs.Columns(it.Name, it.Shape[1])
		if err != nil {
			return err
		}
		if v == nil {
			unknown = append(unknown, it.Name)
		} else {
			known++
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	text := fmt.Sprintf("the inputs of %d weights of %d are not known", len(unknown), known+len(unknown))
	if len(unknown) > known {
		return &SourceError{Path: p.Source.Path, Tensor: unknown[0], Msg: text, Hint: "is the importance matrix, or the file of activations, of this model?"}
	}
	p.Notices = append(p.Notices, fmt.Sprintf("%s; their scales are found by the error of the weights alone: %s", text, firstNames(unknown)))
	return nil
}

// firstNames lists the first of many names.
func firstNames(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// load reads what an item's method goes by.
func (p *Plan) load(it *Item) (in quantize.Inputs, err error) {
	if p.inputs == nil || it.Spec.Scale == bnb.AbsMax {
		return in, nil
	}
	if in.Moments, err = p.inputs.Columns(it.Name, it.Shape[1]); err != nil || it.Spec.Scale != bnb.Feedback {
		return in, err
	}
	in.Gram, in.Heldout, err = p.inputs.Gram(it.Name, it.Shape[1])
	return in, err
}
