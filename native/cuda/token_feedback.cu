// Computes  recall_tokens: token_ids[t] ← last_tokens[slot of its span] where it is kSampledToken;
//           remember_tokens: last_tokens[slots[i]] ← tokens[i].
// Shapes    token_ids [T], tokens and slots [K], last_tokens [slots].
// Mapping   one thread a token.
// Cost      a launch: the bytes do not matter.

#include "cuda/device/ptx.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void recall_kernel(int32_t* token_ids, const int32_t* token_spans,
                              const int32_t* state_slot, const int32_t* last_tokens,
                              int num_tokens) {
  allow_successor();
  wait_for_predecessor();
  const int t = blockIdx.x * kThreads + threadIdx.x;
  if (t >= num_tokens || token_ids[t] != kSampledToken) return;
  const int slot = state_slot[token_spans[t]];
  if (slot >= 0) token_ids[t] = last_tokens[slot];
}

__global__ void remember_kernel(const int32_t* tokens, const int32_t* slots, int32_t* last_tokens,
                                int num_tokens) {
  allow_successor();
  wait_for_predecessor();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < num_tokens && slots[i] >= 0) last_tokens[slots[i]] = tokens[i];
}

}  // namespace

void recall_tokens(const RecallTokensArgs& args, const LaunchContext& context) {
  const int num_tokens = static_cast<int>(args.token_ids.rows());
  launch("recall_tokens", context, recall_kernel, ceil_div(num_tokens, kThreads), kThreads, 0,
         args.token_ids.data<int32_t>(), args.token_spans.data<int32_t>(),
         args.state_slot.data<int32_t>(), args.last_tokens.data<int32_t>(), num_tokens);
}

void remember_tokens(const RememberTokensArgs& args, const LaunchContext& context) {
  const int num_tokens = static_cast<int>(args.tokens.rows());
  launch("remember_tokens", context, remember_kernel, ceil_div(num_tokens, kThreads), kThreads, 0,
         args.tokens.data<int32_t>(), args.slots.data<int32_t>(), args.last_tokens.data<int32_t>(),
         num_tokens);
}

}  // namespace hymba::cuda
