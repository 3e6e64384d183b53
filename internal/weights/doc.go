// Package weights is the tensors of a model, as readers of the elements that they had before anything quantized them: decoded
// where a method has quantized them, put together where a quantized checkpoint holds them apart, and turned where a Linear
// holds them the other way round. It joins package checkpoint, package decode and the table of architectures, once.
//
// A [Tensor] is read by ranges of elements, best by whole rows. What lies across, the weight of a Conv1D or an expert of a
// fused stack that is wanted as [out, in], is read by panels of the stored matrix, each byte once where ranges are asked for
// in order; nothing here holds a whole tensor that is larger than a panel.
package weights
