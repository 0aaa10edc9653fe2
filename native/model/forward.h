// The paper in code: the stages of one forward pass, in order.
#pragma once

#include <atomic>

#include "model/cache.h"
#include "model/config.h"
#include "model/probe.h"
#include "model/step_block.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "ops/ops.h"

namespace hymba {

// What every forward pass of a model reads and writes.
struct ForwardContext {
  const ModelConfig& config;
  const KvLayout& layout;
  const Weights& weights;
  const CacheViews& cache;
  const Workspace& workspace;
  Backend& backend;
  const std::atomic<bool>& stop;  // set from another thread: give up before the next layer
};

// `block` is the batch with its page tables. From the token ids to the residual stream after the
// last layer, workspace.residual [T, C]. K/V, conv and SSM states of the batch's sequences are
// brought up to date on the way. `probe` may be null. Throws kAborted when context.stop is set.
void forward_layers(const ForwardContext& context, const StepBlock& block, Probe* probe);

// The logits of up to kLogitRows rows, `rows` [K] i32, of a batch of `num_tokens`: [K, V] f32 in
// workspace.logits.
TensorView forward_logits(const ForwardContext& context, int64_t num_tokens,
                          const TensorView& rows);

}  // namespace hymba
