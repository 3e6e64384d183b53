// Package feedback chooses 4-bit codes so that the output of a layer changes least, where the Gram matrix of the layer's
// inputs is known: what rounding one column did to the output, the columns after it make up for.
//
// For a row w of weights, its decoded form v and the Gram matrix H of the inputs (the mean of x*x'), the mean square of the
// output's error is (w-v)' H (w-v). Columns are quantized in descending order of the second moments of their inputs, H's
// diagonal (the order of the work only: what is stored does not move). With H + damping = U D U', U upper triangular
// with a diagonal of ones in that order, column k is rounded from
//
//	w[k] + sum over j < k of (w[j] - v[j]) * U[j,k]
//
// which is the best value for it given the columns before. This is GPTQ with act-order (arXiv 2210.17323) in the form of
// LDLQ (arXiv 2307.13304, theorem 6), which needs no inverse. Damping adds a part of the mean of the diagonal to the diagonal:
// it keeps what little calibration text says of rare directions from being believed. 3 % of each element of the diagonal come on top,
// which does as much for the columns of large inputs.
//
// The scales are given, and found before without feedback: those of second moments are the right ones to begin from.
//
// The same codes come out on every machine, for any number of workers and however the rows are cut into panels: all sums
// have the order that package linalg and kernel state.
package feedback
