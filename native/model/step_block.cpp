#include "model/step_block.h"

namespace hymba {

BatchView StepBlock::batch() const {
  return {.num_tokens = static_cast<int>(token_ids.rows()),
          .num_spans = static_cast<int>(state_slot.rows()),
          .token_ids = token_ids,
          .positions = positions,
          .token_spans = token_spans,
          .span_offsets = span_offsets,
          .state_source = state_source,
          .state_slot = state_slot};
}

StepBlock lay_out_step(const StepSize& size, const KvLayout& layout, Arena& arena) {
  const auto ints = [&](int64_t count) { return arena.take(DType::kI32, {count}); };
  StepBlock block;
  block.token_ids = ints(size.tokens);
  block.positions = ints(size.tokens);
  block.token_spans = ints(size.tokens);
  block.span_offsets = ints(size.spans + 1);
  block.state_source = ints(size.spans);
  block.state_slot = ints(size.spans);
  block.is_generated = ints(size.spans);
  block.fresh = ints(size.spans);
  for (KvPool pool : kKvPools)
    block.page_tables[pool] =
        arena.take(DType::kI32, {size.spans, layout.pools[pool].num_columns()});
  block.logit_rows = ints(size.rows);
  block.sampled_slots = ints(size.sampled);
  block.sampling_rows =
      arena.take(DType::kI32, {size.sampled, sizeof(SamplingRow) / sizeof(int32_t)});
  return block;
}

DrawnTokens lay_out_drawn(int64_t sampled, Arena& arena) {
  return {.tokens = arena.take(DType::kI32, {sampled}),
          .logprobs = arena.take(DType::kF32, {sampled}),
          .top_tokens = arena.take(DType::kI32, {sampled, kMaxTopLogprobs}),
          .top_logprobs = arena.take(DType::kF32, {sampled, kMaxTopLogprobs})};
}

}  // namespace hymba
