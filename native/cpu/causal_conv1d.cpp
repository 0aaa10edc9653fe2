// Computes  out[t, e] = silu(bias[e] + Σ_w weight[e, w] · u[t - W + 1 + w, e]), u before the span's
// first token taken from its
//           conv state; then leaves the last W-1 rows of u in the span's own state slot.
// Shapes    u, out [T, E], weight [E, W] fp32, conv_state [slots, W-1, E], oldest row first.
// Mapping   one task for (span, block of channels).
// Numerics  fp32 sum in the order of w; one rounding of the output. The state holds u as it is, so
// chunking changes nothing.

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

constexpr int64_t kChannels = 64;

// One span, channels [first, first + count).
template <typename Act>
void run_block(const CausalConv1dArgs& args, int span, int64_t first, int64_t count) {
  const int64_t channels = args.u.dim(1);
  const int64_t width = args.weight.dim(1);
  const int64_t history = width - 1;
  const int32_t* offsets = args.batch.span_offsets.data<int32_t>();
  const int64_t num_tokens = offsets[span + 1] - offsets[span];
  const int source = args.batch.state_source.data<int32_t>()[span];
  const int slot = args.batch.state_slot.data<int32_t>()[span];
  if (slot < 0) return;  // a padded lane
  Act* state = args.conv_state.row<Act>(slot) + first;

  // The rows that the first outputs look back to: conv state, then u itself. Copied, because source
  // and slot may be one.
  thread_local std::vector<Act> lookback;
  lookback.assign(history * kChannels, from_float<Act>(0.0f));
  if (source >= 0)
    for (int64_t w = 0; w < history; ++w)
      std::copy_n(args.conv_state.row<Act>(source) + w * channels + first, count,
                  lookback.data() + w * kChannels);
  const auto row_of = [&](int64_t t) -> const Act* {
    return t < 0 ? lookback.data() + (history + t) * kChannels
                 : args.u.row<Act>(offsets[span] + t) + first;
  };

  for (int64_t t = 0; t < num_tokens; ++t) {
    float sums[kChannels];
    for (int64_t e = 0; e < count; ++e)
      sums[e] = args.bias.empty() ? 0.0f : args.bias.data<float>()[first + e];
    for (int64_t w = 0; w < width; ++w) {
      const Act* u = row_of(t - history + w);
      const float* weight = args.weight.data<float>() + first * width + w;
      for (int64_t e = 0; e < count; ++e) sums[e] += weight[e * width] * to_float(u[e]);
    }
    Act* out = args.out.row<Act>(offsets[span] + t) + first;
    for (int64_t e = 0; e < count; ++e) out[e] = from_float<Act>(silu(sums[e]));
  }

  for (int64_t w = 0; w < history; ++w)
    std::copy_n(row_of(num_tokens - history + w), count, state + w * channels);
}

}  // namespace

void causal_conv1d(const CausalConv1dArgs& args, ThreadPool& pool) {
  const int64_t channels = args.u.dim(1);
  const int64_t blocks = (channels + kChannels - 1) / kChannels;
  with_act_type(args.u.dtype(), [&](auto type) {
    pool.parallel_for(args.batch.num_spans * blocks, [&](int64_t task) {
      const int64_t first = task % blocks * kChannels;
      run_block<decltype(type)>(args, static_cast<int>(task / blocks), first,
                                std::min(kChannels, channels - first));
    });
  });
}

}  // namespace hymba::cpu
