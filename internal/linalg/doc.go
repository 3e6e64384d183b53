// Package linalg multiplies and factors dense float32 matrices on the processor, in plain Go around the tile kernels of
// package kernel.
//
// # What is promised
//
// Results are the same to the bit on every machine, with every kernel and for any number of workers. An element of a
// product is the sum over the inner dimension in runs of 256: within a run a chain of fused multiply-adds from 0, in
// order; the runs are added to what the element held, in order. So the error of an element of A*B with inner dimension k
// is at most about (min(k, 256) + k/256) * 2^-24 times the sum of the magnitudes of its products.
//
// Workers share the rows or columns of a result; no sum is split.
package linalg
