// Package tokens turns text into the ids that a model was trained on, by the tokenizer.json beside its weights, and reads ids
// from files.
//
// [Parse] reads tokenizer.json and [Tokenizer.Encode] gives the ids of Hugging Face's tokenizers (0.23), which the goldens
// hold it to, for models of the kinds BPE (byte-level, and of characters with a fallback to bytes), Unigram and WordPiece. A
// part that this package does not know is an error that names it, never another split. Chat templates, offsets, padding,
// truncation and decoding are no part of it.
//
// It was written because no pure Go module gave these ids: github.com/sugarme/tokenizer v0.3.0 compiles patterns with RE2, which
// has no lookahead, and differs on all the kinds of the goldens. The patterns of tokenizer.json are Oniguruma's; those in use
// mean the same to github.com/dlclark/regexp2.
package tokens
