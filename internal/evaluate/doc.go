// Package evaluate says what quantization did to a language model: perplexity on a text, the divergence of a checkpoint's
// predictions from those of the source, and where in the model it comes from.
//
// The checkpoints go through the model together, one layer after the other, so that the weights of each are read once; all
// hidden states are kept, by package forward. Figures do not depend on the number of workers.
package evaluate
