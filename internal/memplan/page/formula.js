// The memory formula of package memplan: Coefficients.At in Go, step for step.
// k is a Coefficients object; all numbers are integers of bytes below 2^53, which
// a JavaScript number holds exactly. A Go test runs this file beside the Go code.
"use strict";

function ceilDiv(a, b) {
  const r = a % b;
  return (a - r) / b + (r > 0 ? 1 : 0);
}

// stateBytes is what one tensor of rows x cols costs the optimizer: bytes that
// stay on the GPU, and bytes in unified memory.
function stateBytes(rule, rows, cols) {
  const n = rows * cols;
  let state, scales = 0;
  if (rule.factored && rows > 1 && cols > 1) {
    state = rule.per_elem * (rows + cols);
  } else if (rule.states_8 > 0 && n >= 4096) {
    state = rule.states_8 * n;
    scales = rule.states_8 * 4 * ceilDiv(n, 256);
  } else {
    state = rule.per_elem * n;
  }
  const device = rule.master * n + scales;
  return rule.paged && n >= 100000 ? [device, state] : [device + state, 0];
}

function memoryAt(k, batch, seq, rank) {
  const n = batch * seq;
  let params = 0, opt = 0, paged = 0;
  for (const a of k.adapters || []) {
    params += a.count * rank * (a.in + a.out);
    const [d1, p1] = stateBytes(k.state, rank, a.in);
    const [d2, p2] = stateBytes(k.state, a.out, rank);
    opt += a.count * (d1 + d2);
    paged += a.count * (p1 + p2);
  }
  const grads = ceilDiv(params * k.adapter_size, k.shard_grads);
  const x = {
    weights: k.weights,
    adapters: ceilDiv(params * k.adapter_size, k.shard_weights),
    optimizer: k.optimizer + ceilDiv(opt, k.shard_states) + k.state_tables,
    optimizer_paged: k.paged + ceilDiv(paged, k.shard_states),
    gradients: k.grads + grads,
    workspace: k.workspace + k.buckets * grads,
  };
  const fixed = x.weights + x.adapters + x.optimizer + x.workspace;
  const total = k.in_backward ? k.largest_grad + grads : x.gradients;

  const layer = n * (k.layer_token + k.layer_rank * rank + k.layer_seq * seq);
  let saved = n * (k.saved_token + k.saved_rank * rank + k.saved_seq * seq);
  let last = layer, again = 0;
  if (k.checkpointed) {
    saved = n * k.boundaries;
    last = Math.min(n * k.boundary, saved);
    again = layer;
  }
  const always = k.tail_fixed + rank * k.tail_rank + seq * k.tail_seq + n * seq * k.mask_seq;
  x.activations = saved + n * k.tail_token + always;

  const work = Math.max(n * k.work_token, n * k.dequant_token + k.dequant);
  let layerWork = again + work;
  if (k.attn_seq > 0) {
    layerWork = Math.max(layerWork, again - layer + n * (k.attn_token + k.attn_rank * rank + k.attn_seq * seq));
  }
  const held = n * k.held_token;

  let before = 0, start = Math.min(k.head_grad, total), end = Math.max(total - k.late_grad, 0);
  if (k.persistent || k.in_backward) {
    start = total;
    end = total;
  }
  if (k.persistent) before = total;
  x.phases = [
    ["forward", before, x.activations, 0, n * k.forward_loss],
    ["loss", Math.max(before, Math.min(k.loss_grad, total)), x.activations, 0, n * k.loss_token],
    ["last layer", start, saved + n * k.second_token + always, Math.max(layerWork, n * k.norm_token), held],
    ["first layer", end, last + always, layerWork, held],
    ["embedding", total + Math.min(k.embed_grad, total), always, 0, held],
    ["optimizer", total, n * k.leaf_token, k.step_copy + ceilDiv(params * k.step_per_elem, k.shard_states), held],
    ...(k.cache_token > 0 ? [["generation", before, n * k.cache_token, n * k.tail_token, 0]] : []),
  ].map(([name, gradients, activations, alone, logits]) => {
    const work = alone + (name === "optimizer" ? 0 : k.gathered);
    return { name, gradients, activations, work, logits, allocated: fixed + gradients + activations + work + logits };
  });
  x.allocated = 0;
  for (const p of x.phases) {
    if (p.allocated >= x.allocated) {
      x.peak_phase = p.name;
      x.allocated = p.allocated;
    }
  }
  x.reserved = x.allocated + (x.allocated - (x.allocated % 10000)) / 10000 * k.slack_bp;
  x.process = x.reserved + x.optimizer_paged + k.context;
  x.least = x.process - x.optimizer_paged;
  x.host = x.optimizer_paged + k.host_fixed;
  if (k.checkpointed && k.boundaries === 0 && k.boundary > 0) x.host += n * k.boundary * k.layers;
  return x;
}
