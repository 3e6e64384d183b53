package evaluate

import "fmt"

// A Window is a sequence that a model is given, and what it is asked to predict.
type Window struct {
	IDs     []int32 // inputs
	Targets []int32 // of each position, the token that follows
	From    int     // the first position that is scored: those before are context alone
}

// Cutting is how a text is cut into windows.
type Cutting struct {
	// Context is the length of a window with its last target, so that a model sees Context-1 tokens at most.
	Context int `json:"context"`
	// Stride is how far the next window begins after the last; only what the one before has not scored is scored. As in
	// transformers' guide to the perplexity of models of a fixed length: the first token of a window is predicted by none that
	// begins with it.
	Stride int `json:"stride"`
	// Llama has windows as llama.cpp's perplexity: they do not overlap, the first half is not scored, what is left at the end
	// is left out, and Begin, if the tokenizer begins texts with a token, stands in place of the first. Stride is not used.
	Llama bool   `json:"llama_cpp"`
	Begin *int32 `json:"-"`
}

// Cut cuts texts, each by itself.
func (c Cutting) Cut(texts [][]int32) ([]Window, error) {
	if c.Context < 2 || !c.Llama && (c.Stride < 1 || c.Stride > c.Context) {
		return nil, fmt.Errorf("windows of %d tokens, each %d after the last: want at least 2, and a stride of 1 to as many", c.Context, c.Stride)
	}
	var out []Window
	for _, ids := range texts {
		if c.Llama {
			out = append(out, c.halves(ids)...)
			continue
		}
		scored := 0
		for at := 0; at+1 < len(ids); at += c.Stride {
			end := min(at+c.Context, len(ids))
			out = append(out, Window{IDs: ids[at : end-1], Targets: ids[at+1 : end], From: max(0, scored-at-1)})
			if scored = end; end == len(ids) {
				break
			}
		}
	}
	return out, nil
}

func (c Cutting) halves(ids []int32) (out []Window) {
	for at := 0; at+c.Context <= len(ids); at += c.Context {
		w := Window{IDs: ids[at : at+c.Context-1], Targets: ids[at+1 : at+c.Context], From: c.Context / 2}
		if c.Begin != nil {
			w.IDs = append([]int32{*c.Begin}, w.IDs[1:]...)
		}
		if w.From < len(w.IDs) {
			out = append(out, w)
		}
	}
	return out
}

// Scored is the number of positions of windows that are scored.
func Scored(windows []Window) (n int) {
	for _, w := range windows {
		n += len(w.IDs) - w.From
	}
	return n
}

// Tokens is the number of positions of windows.
func Tokens(windows []Window) (n int) {
	for _, w := range windows {
		n += len(w.IDs)
	}
	return n
}
