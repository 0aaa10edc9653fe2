#include "cuda/attention/attention.h"

#include <algorithm>
#include <cstdint>

#include "cuda/aligned.h"
#include "cuda/attention/kernels.h"
#include "cuda/attention/split.h"
#include "cuda/stages.h"

namespace hymba::cuda {

bool fits_tensor_cores(const AttentionArgs& args) {
  const auto fits = [](int dim) { return dim == 64 || dim == 128; };
  return args.q.dtype() == DType::kBF16 && fits(args.kv.head_dim) && fits(args.kv.value_head_dim) &&
         args.q.dim(1) / args.kv.num_kv_heads <= kMaxGroup && args.scale > 0 &&
         is_aligned(args.q) && is_aligned(args.out) &&
         reinterpret_cast<uintptr_t>(args.kv.pool) % 16 == 0;
}

void attention(const AttentionArgs& args, const LaunchContext& context) {
  if (!fits_tensor_cores(args)) return attend_generic(args, context);
  attend_single_tokens(args, context);
  if (args.batch.num_tokens == args.batch.num_spans) return;
#ifdef HYMBA_WITH_SM90
  if (context.device->takes_sm90_kernels) return attend_spans_sm90(args, context);
#endif
  attend_spans(args, context);
}

// The number of units is not monotonic in the pages, but never above that of the last doubling.
size_t attention_scratch_bytes(const StageLimits& limits) {
  const int64_t units =
      std::min<int64_t>(kMaxUnits, (limits.max_page_columns + kMinUnitPages - 1) / kMinUnitPages);
  const int64_t spans = std::min<int64_t>(limits.max_spans, kMaxLaunchSpans);
  const int64_t floats_a_row = limits.value_head_dim + 2;  // output, maximum, sum
  return static_cast<size_t>(spans * limits.num_heads * units * floats_a_row) * sizeof(float);
}

}  // namespace hymba::cuda
