#include "model/workspace.h"

#include <algorithm>

namespace hymba {

Workspace plan_workspace(const ModelConfig& config, const ModelOptions& options,
                         const KvLayout& layout, Arena& arena) {
  const int64_t max_spans = options.max_sequences;
  const int64_t max_tokens = options.max_batch_tokens;
  const DType act = options.dtype;
  const auto ints = [&](int64_t count) { return arena.take(DType::kI32, {count}); };
  const auto activations = [&](int64_t width) { return arena.take(act, {max_tokens, width}); };

  Workspace w;
  w.token_ids = ints(max_tokens);
  w.positions = ints(max_tokens);
  w.token_spans = ints(max_tokens);
  w.span_offsets = ints(max_spans + 1);
  w.state_source = ints(max_spans);
  w.state_slot = ints(max_spans);
  w.is_generated = ints(max_spans);
  w.fresh = ints(max_spans);
  for (KvPool pool : kKvPools)
    w.page_tables[pool] = arena.take(DType::kI32, {max_spans, layout.pools[pool].num_columns()});

  if (config.rope.type != RopeType::kNone)
    w.cos_sin = arena.take(DType::kF32,
                           {config.num_meta_tokens + options.max_context_tokens, config.head_dim});

  int in_proj_rows = 0;
  for (int layer = 0; layer < config.num_layers(); ++layer)
    in_proj_rows = std::max(in_proj_rows, config.in_proj_rows(layer));
  w.residual = arena.take(DType::kF32, {max_tokens, config.hidden_size});
  w.normed = activations(config.hidden_size);
  w.projected = activations(in_proj_rows);
  w.attention = activations(config.inner_size);
  w.conv = activations(config.inner_size);
  w.dt_b_c = activations(config.dt_rank + 2 * config.state_size);
  w.delta = activations(config.inner_size);
  w.mamba = activations(config.inner_size);
  w.fused = activations(config.inner_size);
  w.mlp = activations(config.intermediate_size);

  w.logit_rows = ints(kLogitRows);
  w.logit_residual = arena.take(DType::kF32, {kLogitRows, config.hidden_size});
  w.logit_normed = arena.take(act, {kLogitRows, config.hidden_size});
  w.logits = arena.take(DType::kF32, {kLogitRows, config.vocab_size});
  w.targets = ints(kLogitRows);
  w.target_logprobs = arena.take(DType::kF32, {kLogitRows});
  w.sampling_rows = arena.take(DType::kI32, {kLogitRows, sizeof(SamplingRow) / sizeof(int32_t)});
  w.bias_tokens = ints(static_cast<int64_t>(kLogitRows) * kMaxLogitBias);
  w.bias_values = arena.take(DType::kF32, {static_cast<int64_t>(kLogitRows) * kMaxLogitBias});
  w.tokens = ints(kLogitRows);
  w.logprobs = arena.take(DType::kF32, {kLogitRows});
  w.top_tokens = arena.take(DType::kI32, {kLogitRows, kMaxTopLogprobs});
  w.top_logprobs = arena.take(DType::kF32, {kLogitRows, kMaxTopLogprobs});
  return w;
}

}  // namespace hymba
