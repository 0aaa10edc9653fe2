#include "model/workspace.h"

#include <algorithm>

#include "model/step_block.h"

namespace hymba {

namespace {

StageLimits stage_limits(const ModelConfig& config, const ModelOptions& options,
                         const KvLayout& layout) {
  StageLimits limits{.max_tokens = options.max_batch_tokens,
                     .max_spans = options.max_sequences,
                     .max_logit_rows = kLogitRows,
                     .num_heads = config.num_heads,
                     .value_head_dim = config.value_head_dim,
                     .x_proj_rows = config.dt_rank + 2 * config.state_size,
                     .inner_size = config.inner_size,
                     .vocab_size = config.vocab_size};
  for (KvPool pool : kKvPools)
    limits.max_page_columns =
        std::max<int64_t>(limits.max_page_columns, layout.pools[pool].num_columns());
  return limits;
}

}  // namespace

Workspace plan_workspace(const ModelConfig& config, const ModelOptions& options,
                         const KvLayout& layout, const Backend& backend, Arena& arena) {
  const int64_t max_spans = options.max_sequences;
  const int64_t max_tokens = options.max_batch_tokens;
  const DType act = options.dtype;
  const auto words = [&](size_t bytes) {
    return arena.take(DType::kI32, {static_cast<int64_t>(bytes / sizeof(int32_t))});
  };
  const auto rows = [&](int64_t count, int64_t width) {
    const int64_t chunk = 16 / static_cast<int64_t>(dtype_bytes(act));
    return arena.take(act, {count, (width + chunk - 1) / chunk * chunk}).slice_columns(0, width);
  };
  const auto activations = [&](int64_t width) { return rows(max_tokens, width); };

  Workspace w;
  Arena step_block, drawn, tops;
  lay_out_step({max_tokens, max_spans, max_tokens, max_spans}, layout, step_block);
  w.step_block = words(step_block.bytes());
  lay_out_drawn(max_spans, drawn);
  w.drawn = words(drawn.bytes());
  w.scratch = words(backend.scratch_bytes(stage_limits(config, options, layout)));

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

  w.logit_residual = arena.take(DType::kF32, {kLogitRows, config.hidden_size});
  w.logit_normed = rows(kLogitRows, config.hidden_size);
  w.logits = arena.take(DType::kF32, {kLogitRows, config.vocab_size});
  w.targets = arena.take(DType::kI32, {kLogitRows});
  w.target_logprobs = arena.take(DType::kF32, {kLogitRows});
  w.top_rows = arena.take(DType::kI32, {kLogitRows, sizeof(SamplingRow) / sizeof(int32_t)});
  lay_out_drawn(kLogitRows, tops);
  w.tops = words(tops.bytes());
  w.bias_tokens = arena.take(DType::kI32, {max_spans * kMaxLogitBias});
  w.bias_values = arena.take(DType::kF32, {max_spans * kMaxLogitBias});
  w.masks = arena.take(DType::kI32, {max_spans, mask_words(config.vocab_size)});
  return w;
}

}  // namespace hymba
