// The kernels that share the attention stage between them.
#pragma once

#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

// The tensor-core kernels: bf16, head dims 64 and 128, up to 16 query heads a K/V head, everything
// 16-byte aligned. One takes the spans of more than one token, the other those of exactly one; each
// leaves the rows of the other alone. For the spans, compute capability 9.0 has a kernel of its
// own.
inline constexpr int kMaxGroup = 16;
bool fits_tensor_cores(const AttentionArgs& args);
void attend_spans(const AttentionArgs& args, const LaunchContext& context);
void attend_spans_sm90(const AttentionArgs& args, const LaunchContext& context);
void attend_single_tokens(const AttentionArgs& args, const LaunchContext& context);

// Any shape, fp32 or bf16, all spans.
void attend_generic(const AttentionArgs& args, const LaunchContext& context);

// Calls f(Dk, Dv) with the head dims of the view, 64 or 128 each, as integral constants.
template <typename F>
void with_head_dims(const KvLayerView& kv, F&& f) {
  const auto with_value_dim = [&](auto head_dim) {
    kv.value_head_dim == 64 ? f(head_dim, std::integral_constant<int, 64>{})
                            : f(head_dim, std::integral_constant<int, 128>{});
  };
  kv.head_dim == 64 ? with_value_dim(std::integral_constant<int, 64>{})
                    : with_value_dim(std::integral_constant<int, 128>{});
}

}  // namespace hymba::cuda
