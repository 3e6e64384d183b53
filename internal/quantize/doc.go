// Package quantize makes the stored parts of one weight from its values: the scale of every block,
// the second level of the scales, the codes, and the sums of the error.
//
// A weight is worked on in panels, which workers take in order:
//
//	one pass     [panel][panel][panel] ─> mean ─> [scales][scales] ─> constants ─> [range][range]
//	             scales and codes        offset   8-bit codes of      tables,      error sums of what was
//	                                              the scales          quant_state  written, and of the
//	                                                                               other 4-bit type
//	two passes   [panel][panel] ─> mean ─> [scales] ─> constants ─> [panel][panel] ─> [range][range]
//	             scales                                             codes against     error sums
//	                                                                decoded scales
//
// Double quantization needs the mean of all the scales, so nothing about the constants is known
// before the last panel was scaled. That is why the error is a stage of its own, and why the values
// stay in memory between the stages where the budget allows. Scales beyond the budget go to a
// scratch file.
//
// A [Method] chooses scales and codes. A further method is one file here and one
// case in [For].
package quantize
