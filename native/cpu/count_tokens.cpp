// Computes  history[slot] ← history[slot] with the tokens of each span counted; what an entry holds
//           stands in ops/sampling.h.
// Shapes    token_ids [T], spans [S], history [slots, V] u16.
// Mapping   one task a span, which is one slot.

#include <algorithm>

#include "cpu/stages.h"

namespace hymba::cpu {

void count_tokens(const CountTokensArgs& args, ThreadPool& pool) {
  const int32_t* token_ids = args.token_ids.data<int32_t>();
  const int32_t* offsets = args.span_offsets.data<int32_t>();
  const int64_t vocab_size = args.history.dim(1);
  pool.parallel_for(args.state_slot.rows(), [&](int64_t span) {
    const int32_t slot = args.state_slot.data<int32_t>()[span];
    if (slot < 0) return;  // a padded lane
    check(slot < args.history.rows(), "count_tokens: slot ", slot, " of ", args.history.rows());
    uint16_t* seen = args.history.row<uint16_t>(slot);
    if (args.fresh.data<int32_t>()[span] != 0) std::fill_n(seen, vocab_size, uint16_t{0});
    const bool is_generated = args.is_generated.data<int32_t>()[span] != 0;
    for (int32_t t = offsets[span]; t < offsets[span + 1]; ++t) {
      const int32_t token = token_ids[t];
      if (token < 0) continue;  // a meta token
      check(token < vocab_size, "count_tokens: token ", token, " of ", vocab_size);
      if (!is_generated)
        seen[token] |= kSeenInPrompt;
      else if ((seen[token] & kGeneratedCount) < kGeneratedCount)
        ++seen[token];
    }
  });
}

}  // namespace hymba::cpu
