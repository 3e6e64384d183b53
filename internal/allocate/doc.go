// Package allocate chooses for each weight of a model how many bits it gets, so that the outputs of all layers together lose
// least under a budget for the whole model.
//
// What a weight loses is estimated on a sample of it: the squared error that a format leaves, times the second moments of the
// inputs where these are known. How much that counts is the weight's sensitivity. Where a file of activations has it, it is the
// mean square of the gradient of the model's log likelihood by an output of the layer: half of the product is then the KL
// divergence that the error causes, were errors, inputs and gradients independent (the factorization of K-FAC, arXiv
// 1503.05671). Else the error is taken relative to the layer's output, the same for each layer: that the loss rises in
// proportion to relative errors is theorem 1 of HIGGS (arXiv 2411.17525), that it does so alike in all layers is a guess.
//
// Among the settings of each weight, 16 bits or blocks of several sizes, those are taken that lower the sum most for the bits
// they take, from the lower convex hull of each; what is left of the budget goes to whatever still fits. The result is never
// worse, by the estimate, than any one setting for all weights that takes no more bits. Nothing in it depends on workers, memory
// or kernels.
package allocate
