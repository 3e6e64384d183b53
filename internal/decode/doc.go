// Package decode presents the weights of a checkpoint that was quantized by another method as plain tensors, in
// stream: a scheme says which stored tensors make up a logical weight, and a reader yields that weight's elements,
// row-major and little-endian, decoding only the range that is asked for.
//
// # What is decoded, and to what
//
// Every reader yields the bits of the reference implementation before it casts to the dtype of the model. Rounding
// them once to that dtype, as for a source in any other dtype, gives what the reference loads.
//
//	method              reference                                             arithmetic                     decoded to
//	fp8, mxfp8          transformers integrations/finegrained_fp8.py          f32(code) * f32(scale)         F32
//	                    (Fp8Dequantize._dequantize_one)
//	fbgemm_fp8          transformers integrations/fbgemm_fp8.py               f32(code) * f32(scale)         F32
//	compressed-tensors  compressed_tensors quantization/lifecycle/            code * scale in the dtype of   dtype of the scales,
//	                    forward_helpers.py (_dequantize)                      the scales                     BF16 for E8M0
//	  pack-quantized    the same, and compressors/pack_quantized              (code - zero) * scale, the     dtype of the scales
//	                                                                          same
//	  nvfp4, mxfp4 and  the same, and compressors/nvfp4                       code * (scale / second) in     BF16
//	  mxfp6                                                                   F32, NVFP4; else in BF16
//	modelopt            modelopt torch/quantization/qtensor/nvfp4_tensor.py   code * (scale * second)        F32
//	                    (NVFP4QTensor.dequantize); FP8 as fp8
//	mxfp4               transformers integrations/mxfp4.py                    value * 2^(scale-127)          BF16, exactly
//	                    (convert_moe_packed_tensors)
//	bitsandbytes        bitsandbytes backends/default/ops.py                  (f32(code) * SCB) * f32(1/127) F32
//	(LLM.int8)          (int8_vectorwise_dequant)
//
// Versions: transformers 5.23.0, compressed-tensors 0.20.0, nvidia-modelopt 0.47.0, bitsandbytes 0.50.2. Columns in the
// order of activations (weight_g_idx) are those of compressed-tensors 0.9, since 0.20 reads them no more. F32 is no luxury: a run dtype of
// float16 would else round twice. (transformers decodes compressed-tensors experts that it also merges in F32 rather
// than in the dtype of the scales; for scales in BF16 and a model in BF16 that is the same.)
//
// Blocks are those of quantization_config, the last of a row or column short where the shape is no multiple, as
// in DeepSeek's own kernels. transformers divides the shape by the scale grid instead: it refuses [576, 7168] under
// [5, 56] scales, and takes blocks of 65 for 130 rows in blocks of 128.
//
// # What is refused
//
// Methods that reorder, pack or transform in ways only their own kernels undo (GPTQ, AWQ, GGUF, AQLM, HQQ,
// compressed-tensors' sparse and rotated formats, ModelOpt's that scale inputs, MLX and others) give an [UnsupportedError]. So do the
// FNUZ variants of FP8: no published checkpoint holds them, and the runtimes that use them double the scales at load,
// so that a file with them would not say which convention it follows.
package decode
