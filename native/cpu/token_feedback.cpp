// Computes  recall_tokens: token_ids[t] ← last_tokens[slot of its span] where it is kSampledToken;
//           remember_tokens: last_tokens[slots[i]] ← tokens[i].
// Shapes    token_ids [T], tokens and slots [K], last_tokens [slots].

#include "cpu/stages.h"

namespace hymba::cpu {

void recall_tokens(const RecallTokensArgs& args) {
  int32_t* token_ids = args.token_ids.data<int32_t>();
  const int32_t* spans = args.token_spans.data<int32_t>();
  const int32_t* slots = args.state_slot.data<int32_t>();
  for (int64_t t = 0; t < args.token_ids.rows(); ++t)
    if (token_ids[t] == kSampledToken && slots[spans[t]] >= 0)
      token_ids[t] = args.last_tokens.data<int32_t>()[slots[spans[t]]];
}

void remember_tokens(const RememberTokensArgs& args) {
  for (int64_t i = 0; i < args.tokens.rows(); ++i) {
    const int32_t slot = args.slots.data<int32_t>()[i];
    if (slot >= 0) args.last_tokens.data<int32_t>()[slot] = args.tokens.data<int32_t>()[i];
  }
}

}  // namespace hymba::cpu
