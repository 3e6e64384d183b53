// Package convert turns a full-precision checkpoint into a 4-bit one, and a
// 4-bit one back, in four steps that are kept apart:
//
//	inventory   what the headers of the source say           (checkpoint)
//	policy      which tensors are quantized, how, and why    (policy.go)
//	plan        every output name, dtype, shape, file        (plan.go)
//	execute     bounded workers move the bytes               (execute.go)
//
// Everything is decided from headers: a [Plan] can be printed, tested and
// refused before a single weight is read, and the executor decides nothing.
// The bytes written do not depend on the number of workers or on the memory
// limit.
package convert
