package arch

// Tensor is one module weight of a checkpoint as the skip list sees it.
type Tensor struct {
	Name  string // tensor name in the checkpoint
	Class Class
}

// Loader is a family of loaders with one skip-list match rule.
type Loader uint8

// The four match rules.
const (
	LoaderT4   Loader = iota // transformers 4.57 and diffusers
	LoaderT50                // transformers 5.0 to 5.20
	LoaderT521               // transformers 5.21 and later
	LoaderVLLM               // vLLM and SGLang
)

// String names the loaders of the rule.
func (l Loader) String() string {
	return [...]string{"transformers 4.57 and diffusers", "transformers 5.0-5.20", "transformers 5.21 and later", "vLLM and SGLang"}[l]
}

// Violation is one module that a skip list treats wrongly in one loader.
type Violation struct {
	Loader Loader
	Entry  string // the list entry at fault; "" if an entry is missing
	Path   string // module path in that loader
	Over   bool   // true: a quantized module is skipped; false: a kept module is not
}
