// Package memplan computes the GPU memory of a training run: full
// fine-tuning, LoRA or QLoRA, on a [modelshape.Model]. It is arithmetic alone: no
// files, no clock, no floating point but in reports.
//
// A [Run] and a model are reduced to [Coefficients], what is multiplied with
// batch, sequence and rank; [Coefficients.At] evaluates them into a [Memory]. Every
// formula is here, with where it comes from. Bytes per element: w of the base
// weights, c of hidden states, a of adapters. Sizes: h hidden, i MLP width, q, kv
// query and key-value width, H heads, V vocabulary, L layers, r rank, B batch, T
// sequence, N = B T tokens.
//
// # Weights
//
//	16 bits         2 per parameter
//	NF4, block b    (n+1)/2 + 4 ceil(n/b) + 64 per weight of n elements
//	NF4+DQ          (n+1)/2 + ceil(n/b) + 4 ceil(ceil(n/b)/256) + 64 + 1024 (+ 4 in memory)
//	in the file     + 256 for the quant_state record
//	the rest        2, or 4 after prepare_model_for_kbit_training
//
// bitsandbytes functional.py (QuantState), Dettmers et al. 2023 section 3; peft
// utils/other.py. Routed experts are 3-D parameters in transformers 5 and stay in
// 16 bits, and kbit preparation doubles them.
//
// # Gradients and optimizer
//
//	mixed precision   2 weights + 2 gradients + 4 master + 8 Adam = 16 per parameter
//	autocast          4 + 4 + 8 = 16, and 2 for the cast copies while gradients are computed
//	pure              w + w + states; AdamW in the parameter's dtype 2w, in float32 8
//	adapters          the same with a: 16 per parameter in float32
//	8-bit             2 + 8/256 per element, 8 below 4096 elements; Lion 1 + 4/256
//	Adafactor         4 (rows + columns)
//	GaLore            of a layer's weight (shorter + 2 longer) sides x rank 128
//	paged             tensors of 100,000 elements and more may be on the host
//
// Micikevicius et al. 2018; Rajbhandari et al. 2020 section 3.1; torch.optim;
// bitsandbytes optim/optimizer.py (init_state, get_state_buffer). ZeRO-1, 2, 3 and
// FSDP divide states, gradients, weights by the ranks (Rajbhandari et al. 2020,
// figure 1), of which FSDP's mixed precision shards the master copy itself, with
// float32 gradients, and LoRA under FSDP has a second copy of the layers' inputs in
// the backward pass (measured); on the host (offload) they leave the GPU. ZeRO-3 and FSDP hold two whole layers and the embedding, ZeRO-2 a
// bucket of 5e8 gradients; plain data parallelism copies the gradients into buckets
// (torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view).
//
// # Saved activations
//
// What autograd keeps per token and layer, for Llama's layers in transformers
// 5.23 and peft 0.21. It equals what torch's saved_tensors_hooks count, to the byte,
// in the 52 cases of testdata/activations.json.
//
//	each RMSNorm          4h + 4; trained + c h
//	LayerNorm             c h + 8
//	attention, SDPA       c (2q + 2kv) + 4H; padded batch: keys and values repeated to q, + c T
//	attention, eager      3 c q + (4 + c) H T (4 H T in float32)
//	MLP with gate         3 c i; without c i
//	full fine-tuning      + 2 c h + c i, the inputs of the linear layers; eager + c q
//	                      under autocast norms in float32, inputs cast per layer: 2 (5h + i) instead
//	DoRA                  + 32/5 out per target (one measurement), and 8 in out at work
//	LLM.int8              + 2 (3h + i) and the attention's result, the inputs of all products
//	adapter               + a in, its own copy of the input, if a differs from c or there is
//	                      dropout (then + in for the mask); else c in once per distinct input, none
//	                      for o_proj, whose input SDPA saved; + a r
//	under autocast        attention on 2 bytes, adapters a = 2 with their own copies if the residual is
//	                      float32 or peft has cast (LoRA, not bitsandbytes), and 2 bytes for the cast
//	                      copy of each adapter parameter and of a float32 head
//	once                  rotary tables 2 d c T, final norm, labels 8, ids 8 if embeddings are trained
//
// c is 2, or 4 after kbit preparation (the residual stream is float32) and for
// float32 weights. Without checkpointing the first layer saves nothing before the
// first adapter. torch.compile: 2 c i instead of 3 c i, no normed copies (fitted to
// torchtune's README). Mixture of experts: i is the experts' a token visits, and
// 2 k c h for gathering and weighing; windows, latent and linear attention are counted
// as plain attention of the same widths. These are estimates, unlike the above.
//
// With checkpointing c h per token and layer stays (Chen et al. 2016), and one
// layer at a time is computed again.
//
// # The loss
//
// Per token and word of the vocabulary: logits, their float32 cast, log_softmax
// saved, its incoming and outgoing gradient: 2 + 4 + 4 + 4, less the cast's, which
// is gone by then: 14; 16 with a float32 head; 12 if the loop drops the outputs
// (transformers loss_utils.py). Chunked 3.5, LoRA 2, compiled 12 (fitted to
// torchtune's README). In place, its gradient where the logits were: 8 (fitted to
// fms-acceleration). Fused with the projection: 3 c h per token, as the losses of DPO
// and GRPO, which have pairs of sequences, a reference model where all parameters are
// trained, and before the step the KV cache of all that is generated for it.
//
// # The peak over time
//
// Not a sum: the largest of six moments. S is weights, adapters, states,
// workspace; G gradients; A what is saved; W one layer's work.
//
//	forward       S + A + the loss's forward part
//	loss          S + A + the loss's backward part
//	last layer    S + A + W + logits still held + gradient of the head
//	first layer   S + W + logits held + G of the layers above
//	embedding     S + G + a second gradient if it is tied
//	optimizer     S + G + logits held + copies of the step
//
// G is there from the start where gradients are accumulated, and is one
// tensor's where the optimizer steps in the backward pass. W with checkpointing is a
// layer's saved bytes and its temporaries: six times c i in the MLP altogether, and c
// h; or 2 n bytes of a decoded 4-bit weight; or, eager, 16 H T (14 in half
// precision) for the softmax's backward pass (aten/src/ATen/native/cuda/SoftMax.cu).
// Checked against every storage alive in real steps of tiny models: within 2.5 %.
//
// # Beyond the allocator
//
// Reserved is allocated and a share (5 % unless told; 0 to 19 % measured, up to
// 40 % with eager attention), process is that and the CUDA context (141 MiB measured
// on a T4, 300 to 550 MiB told of others, pytorch/pytorch issues 107667 and 81257).
// cuBLAS has 8.125 MiB inside the allocator (aten/src/ATen/cuda/CublasHandlePool.cpp).
//
// What the formulas say of published measurements is in docs/plan.md and in
// measured_test.go.
package memplan
