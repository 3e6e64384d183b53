// Package forward runs a decoder-only language model on the processor in float32, one layer at a time over all tokens, with
// weights that are decoded by panels from however they are stored. So the memory that it takes does not depend on the size of
// the model, and the weights of a layer are read once for as many tokens as the memory holds.
//
// A model is what its config.json says, through one description of a block: how it is normed, how it attends, what its MLP
// is and how they are joined. [New] refuses by name what has no description, a key of config.json that it does not know, and
// a checkpoint whose tensors are not those of the description. It never guesses.
//
// Results do not depend on the number of workers.
package forward
