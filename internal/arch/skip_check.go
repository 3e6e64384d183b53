package arch

// SkipList returns the llm_int8_skip_modules list that keeps exactly the kept
// modules in 16 bits in every loader of the targets, or nil if none is needed
// (null keeps the same set). Violations name what no list of ours can satisfy.
func (m *Model) SkipList(t Target, kept, quantized []Tensor) (list []string, bad []Violation) {
	return nil, nil
}

// CheckSkip runs the match rules of the targets' loaders over all modules and
// returns every kept module that the list misses and every quantized module
// that it hits, at most 100.
func CheckSkip(list []string, t Target, kept, quantized []Tensor) []Violation { return nil }
