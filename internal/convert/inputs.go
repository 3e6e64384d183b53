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
	// Entry names the inputs of a weight: those of weights with the same are the same. "" if they are not known.
	Entry(weight string) string
}

// checkInputs reads what is known of the inputs of every weight whose scales are searched for, and counts.
func (p *Plan) checkInputs(opt *Options) error {
	p.inputs = opt.Inputs
	var known int
	var unknown []string
	var feedback []*Item
	for i := range p.items {
		it := &p.items[i]
		if !it.Quantize || it.Spec.Scale == bnb.AbsMax || it.Elems() == 0 {
			continue
		}
		if it.Spec.Scale == bnb.Feedback {
			feedback = append(feedback, it)
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
	p.share(feedback)
	if len(unknown) == 0 {
		return nil
	}
	text := fmt.Sprintf("the inputs of %d weights of %d are not known", len(unknown), known+len(unknown))
	if len(unknown) > known {
		return &SourceError{Path: p.src.Path, Tensor: unknown[0], Msg: text, Hint: "is the importance matrix, or the file of activations, of this model?"}
	}
	p.notices = append(p.notices, fmt.Sprintf("%s; their scales are found by the error of the weights alone: %s", text, firstNames(unknown)))
	return nil
}

// share finds the weights that have their inputs in common, and what feedback takes of memory: what one of them does, beside what is
// kept for others.
func (p *Plan) share(list []*Item) {
	p.shared = map[string]*quantize.Shared{}
	left := map[string]int{}
	entry := func(it *Item) string {
		if p.inputs == nil {
			return ""
		}
		return p.inputs.Entry(it.Name)
	}
	for _, it := range list {
		if e := entry(it); e != "" {
			if left[e]++; left[e] == 1 {
				p.shared[e] = new(quantize.Shared)
			}
			p.shared[e].Add()
		}
	}
	kept := map[string]int64{}
	for _, it := range list {
		e := entry(it)
		need := quantize.FeedbackMemory(it.Shape[1])
		for other, n := range kept {
			if other != e {
				need += n
			}
		}
		p.stats.MethodBytes = max(p.stats.MethodBytes, need)
		if e == "" {
			continue
		}
		if left[e]--; left[e] > 0 {
			kept[e] = quantize.SharedMemory(it.Shape[1])
		} else {
			delete(kept, e)
		}
	}
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
	in.Gram = func() (calibration, heldout []float32, err error) { return p.inputs.Gram(it.Name, it.Shape[1]) }
	in.Shared = p.shared[p.inputs.Entry(it.Name)]
	return in, err
}
