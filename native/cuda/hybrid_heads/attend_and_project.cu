// Computes  for spans of exactly one token: attention over rotated queries, with the token's own K
//           and V written to their page (rotary_kv_write and attention); and the Mamba heads up to
//           dt, B and C (causal_conv1d and x_proj).
// Shapes    As those of the four stages, in bf16; Dk and Dv 64 or 128.
// Mapping   Two kinds of blocks, which do not depend on each other: those of x_proj_split.cuh,
// whose
//           threads convolve what they bring, and those of attention, unit_attention.cuh.
// Shared    The larger of both: 50 KB at head dims of 64 and 128.
// Numerics  The bits of the four stages.
// Cost      The K/V that is seen, bound by memory. With one sequence bound by latency: that of
//           attention, with the rest beside it.

#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/unit_attention.cuh"
#include "cuda/causal_conv1d/channel_conv.cuh"
#include "cuda/gemm/x_proj.h"
#include "cuda/gemm/x_proj_split.cuh"
#include "cuda/hybrid_heads/hybrid_heads.h"
#include "cuda/hybrid_heads/kernels.h"
#include "cuda/hybrid_heads/rotated_inputs.cuh"

namespace hymba::cuda {
namespace {

static_assert(kAttentionThreads == kSplitThreads);
static_assert(kMaxLaunchSpans <= kMaxSkinnyRows);

// u, convolved on the way from in_proj's output: 8 channels of a token a thread.
struct ConvolvedColumns {
  ConvParams<BFloat16> conv;
  static_assert(kConvChannels == kChunkElements);

  struct Reader {
    ChannelConv<BFloat16, kFusedConvWidth> conv;

    __device__ __forceinline__ Chunk<BFloat16, kConvChannels> chunk(int token) {
      return conv.run_single(token);
    }
  };
  __device__ __forceinline__ Reader columns(int first) const { return {{conv, first}}; }
};

template <int kHeadDim, int kValueDim>
__global__ void __launch_bounds__(kAttentionThreads, UnitMemory<kHeadDim, kValueDim>::kBlocksAnSm)
    attend_and_project_kernel(UnitParams units, RotatedInputs<kHeadDim, kValueDim> inputs,
                              int num_projections, SplitXProj projection,
                              ConvolvedColumns columns) {
  const int block = static_cast<int>(blockIdx.x);
  // First, so that adding up their contributions does not come last.
  if (block < num_projections) {
    project_columns(projection, block, columns);
  } else {
    wait_for_predecessor();
    attend_unit<kHeadDim, kValueDim>(units, block - num_projections, inputs);
  }
}

// Contributions are read by 16 bytes.
constexpr int64_t padded_floats(int64_t floats) { return (floats + 3) / 4 * 4; }

}  // namespace

// Both kinds of blocks run at the same time, so their scratch lies side by side.
size_t hybrid_heads_scratch_bytes(const StageLimits& limits) {
  const int64_t tokens = std::min<int64_t>(limits.max_spans, kMaxLaunchSpans);
  const int64_t floats = padded_floats(attention_scratch_bytes(limits) / sizeof(float)) +
                         contribution_floats(tokens, limits.x_proj_rows, limits.inner_size);
  return floats * sizeof(float);
}

void attend_and_project(const HybridHeadsArgs& args, const LaunchContext& context) {
  const AttentionArgs& attention = args.attention;
  const int num_tokens = attention.batch.num_tokens;
  UnitParams units = unit_params(attention, context, num_tokens);
  const int64_t unit_floats = padded_floats(partial_floats(attention, units.plan, num_tokens));
  float* const scratch = context.scratch_for<float>(
      unit_floats +
          contribution_floats(num_tokens, args.x_proj.weight.rows, args.x_proj.weight.cols),
      "hybrid_heads");
  units.partials = partials_in(scratch, attention, units.plan, num_tokens);
  const SplitXProj projection(args.x_proj, scratch + unit_floats,
                              context.counters + num_tokens * attention.kv.num_kv_heads);
  const int num_units = units.num_units(num_tokens);
  with_head_dims(attention.kv, [&](auto head_dim, auto value_dim) {
    launch("hybrid_heads", context, attend_and_project_kernel<head_dim, value_dim>,
           static_cast<unsigned>(projection.num_blocks() + num_units), kAttentionThreads,
           std::max(unit_shared_bytes<head_dim, value_dim>(units.plan), projection.shared_bytes()),
           units, RotatedInputs<head_dim, value_dim>(args.rotary), projection.num_blocks(),
           projection, ConvolvedColumns{make_conv_params<BFloat16>(args.conv)});
  });
}

}  // namespace hymba::cuda
