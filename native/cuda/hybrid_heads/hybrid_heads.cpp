#include "cuda/hybrid_heads/hybrid_heads.h"

#include "cuda/aligned.h"
#include "cuda/attention/kernels.h"
#include "cuda/attention/split.h"
#include "cuda/gemm/x_proj.h"
#include "cuda/hybrid_heads/limits.h"

namespace hymba::cuda {
namespace {

// Queries, keys and values are moved by 16 bytes. A norm of the heads needs all of a head at once.
bool fits_rotation(const RotaryKvWriteArgs& args) {
  return args.q_norm.empty() && args.k_norm.empty() &&
         (args.k.empty() || (is_aligned(args.k) && is_aligned(args.v))) &&
         (args.cos_sin.empty() || is_aligned(args.cos_sin));
}

bool fits_projection(const CausalConv1dArgs& conv, const XProjArgs& x_proj) {
  return conv.weight.dim(1) == kFusedConvWidth && splits_x_proj(x_proj);
}

bool fits_step_states(const DtProjArgs& dt_proj, const SelectiveScanArgs& scan) {
  const int64_t states = scan.a.dim(1);
  return dt_proj.weight.packed && dt_proj.dt.dim(1) <= kMaxStepRank && states % 4 == 0 &&
         states <= kMaxStepStates && is_aligned(dt_proj.dt) && is_aligned(scan.a) &&
         is_aligned(scan.ssm_state);
}

// All of a step is one launch, which counts arrivals of (token, K/V head), of tiles of tokens and
// of groups of tokens.
bool fits_launch(const AttentionArgs& args, const LaunchContext& context) {
  const BatchView& batch = args.batch;
  const bool is_decoding = batch.num_tokens == batch.num_spans;  // a span has a token at least
  return is_decoding && batch.num_spans <= kMaxLaunchSpans &&
         batch.num_spans * (args.kv.num_kv_heads + 2) <= context.num_counters;
}

}  // namespace

bool fuses_heads(const HybridHeadsArgs& args, const LaunchContext& context) {
  return fits_launch(args.attention, context) && fits_tensor_cores(args.attention) &&
         fits_rotation(args.rotary) && fits_projection(args.conv, args.x_proj) &&
         fits_step_states(args.dt_proj, args.scan);
}

}  // namespace hymba::cuda
