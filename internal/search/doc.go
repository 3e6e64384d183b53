// Package search finds the scales of blocks of weights by the error they leave, instead of taking the largest magnitude.
//
// The format fixes the 16 values of a type; the scale of a block is any float32, of either sign. A negative scale turns
// the values of the type around: NF4 has more of them above zero than below. The error of a block is the sum over its
// elements of h*(x - scale*value)^2 with the value nearest to x/scale. h is 1, or the mean square of the input that the
// weight is multiplied with (second moments, an importance matrix): then the sum is the mean square of the layer's output
// error, had the inputs no correlation.
//
// For given codes the error is a parabola in the scale, so the scale that is best for them is known at once (a
// least-squares fit). What has to be searched for is the codes: they are tried as scales on a grid give them, coarse
// first and finer around the best.
//
// What a scale is decoded to after double quantization differs from what was found here. The codes are to be chosen
// against the decoded scale: kernel.Codes.
package search
