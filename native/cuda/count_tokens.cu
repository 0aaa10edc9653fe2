// Computes  history[slot] ← history[slot] with the tokens of each span counted; what an entry holds
//           stands in ops/sampling.h.
// Shapes    token_ids [T], spans [S], history [slots, V] u16: a row is aligned to 2 bytes only.
// Mapping   one block a span, which is one slot. A fresh row is zeroed in pieces of 16 bytes, with
//           single entries before and after the aligned part; then a thread takes every 256th
//           token. A decode step is one token a span: a load and a store of one thread.
// Shared    none.
// Numerics  integers. Tokens may repeat inside a span: in a prompt all of them store the same
// value,
//           generated ones add by compare-and-swap, and additions up to a bound commute. So the
//           result does not depend on the order.
// Limits    a padded lane (slot below 0), a meta token (id below 0) and what lies outside the
//           history leave it alone.
// Cost      2·V bytes written for a fresh span; 4 bytes a token of others; bound by latency.

#include "cuda/device/ptx.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 256;

struct CountTokensParams {
  const int32_t* token_ids;
  const int32_t* span_offsets;
  const int32_t* state_slot;
  const int32_t* is_generated;
  const int32_t* fresh;
  uint16_t* history;
  int64_t row_stride;
  int64_t num_slots;
  int vocab_size;
};

__device__ void zero_row(uint16_t* row, int count) {
  constexpr int kVector = sizeof(uint4) / sizeof(uint16_t);
  const int misaligned =
      static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(uint16_t)) & (kVector - 1);
  const int head = min((kVector - misaligned) & (kVector - 1), count);
  const int num_vectors = (count - head) / kVector;
  uint4* vectors = reinterpret_cast<uint4*>(row + head);
  for (int i = threadIdx.x; i < num_vectors; i += kThreads) vectors[i] = make_uint4(0, 0, 0, 0);
  const int tail = head + num_vectors * kVector;
  const int i = threadIdx.x;
  if (i < head) row[i] = 0;
  if (i < count - tail) row[tail + i] = 0;
}

__device__ void count_generated(uint16_t* entry) {
  uint16_t seen = *entry;
  while ((seen & kGeneratedCount) < kGeneratedCount) {
    const uint16_t found = atomicCAS(entry, seen, static_cast<uint16_t>(seen + 1));
    if (found == seen) break;
    seen = found;
  }
}

__global__ void __launch_bounds__(kThreads) count_tokens_kernel(CountTokensParams p) {
  allow_successor();
  wait_for_predecessor();
  const int span = blockIdx.x;
  const int slot = p.state_slot[span];
  if (slot < 0 || slot >= p.num_slots) return;
  uint16_t* row = p.history + slot * p.row_stride;
  if (p.fresh[span] != 0) {
    zero_row(row, p.vocab_size);
    __syncthreads();
  }
  const bool is_generated = p.is_generated[span] != 0;
  const int end = p.span_offsets[span + 1];
  for (int t = p.span_offsets[span] + threadIdx.x; t < end; t += kThreads) {
    const int token = p.token_ids[t];
    if (token < 0 || token >= p.vocab_size) continue;
    if (is_generated)
      count_generated(row + token);
    else
      row[token] |= kSeenInPrompt;
  }
}

}  // namespace

void count_tokens(const CountTokensArgs& args, const LaunchContext& context) {
  launch("count_tokens", context, count_tokens_kernel,
         dim3(static_cast<unsigned>(args.state_slot.rows())), dim3(kThreads), 0,
         CountTokensParams{.token_ids = args.token_ids.data<int32_t>(),
                           .span_offsets = args.span_offsets.data<int32_t>(),
                           .state_slot = args.state_slot.data<int32_t>(),
                           .is_generated = args.is_generated.data<int32_t>(),
                           .fresh = args.fresh.data<int32_t>(),
                           .history = args.history.data<uint16_t>(),
                           .row_stride = args.history.row_stride(),
                           .num_slots = args.history.rows(),
                           .vocab_size = static_cast<int>(args.history.dim(1))});
}

}  // namespace hymba::cuda
