// Computes  out = (rms(attention, attention_weight) + rms(mamba, mamba_weight)) / 2, row by row.
// Shapes    attention, mamba, out [T, E] act, weights [E] fp32; rows may be strided.
// Mapping   a team of threads a row, 8 elements of both inputs a thread (device/row_norm.cuh). The
//           weights are read before the predecessor has ended.
// Shared memory  two floats a warp.
// Numerics  everything in fp32; one rounding to the output's dtype. A row's bits depend on its
//           width alone.
// Limits    E ≤ 16,384.
// Cost      3·T·E·act bytes, 8·E of weights; bound by memory, in decode by latency.

#include "cuda/device/row_norm.cuh"
#include "cuda/device/views.cuh"
#include "cuda/dispatch.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

template <typename Act, int kChunks>
__global__ void __launch_bounds__(kMaxTeamThreads)
    fuse_heads_kernel(Rows<const Act> attention, Rows<const Act> mamba,
                      const float* attention_weight, const float* mamba_weight, float epsilon,
                      Rows<Act> out, int num_rows, int width, bool aligned) {
  __shared__ TeamSlots<2> slots;
  allow_successor();
  // With four chunks a thread the registers are needed for the rows.
  constexpr bool kEarlyWeights = kChunks == kFewRowChunks;
  RowChunks<float, kChunks> attention_weights, mamba_weights;
  if constexpr (kEarlyWeights) {
    attention_weights.load(attention_weight, width, aligned);
    mamba_weights.load(mamba_weight, width, aligned);
  }
  wait_for_predecessor();

  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const int present = row < num_rows ? width : 0;
  RowChunks<Act, kChunks> a, m;
  a.load(attention[row], present, aligned);
  m.load(mamba[row], present, aligned);
  float sums[2] = {a.square_sum(), m.square_sum()};
  team_sums(sums, slots);
  const float a_scale = rms_scale(sums[0], width, epsilon);
  const float m_scale = rms_scale(sums[1], width, epsilon);

#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if constexpr (!kEarlyWeights) {
      attention_weights.load(i, attention_weight, width, aligned);
      mamba_weights.load(i, mamba_weight, width, aligned);
    }
    float fused[kRowChunk];
#pragma unroll
    for (int j = 0; j < kRowChunk; ++j)
      fused[j] = fused_value(
          normed_value(element(attention_weights.chunks[i], j), element(a.chunks[i], j), a_scale),
          normed_value(element(mamba_weights.chunks[i], j), element(m.chunks[i], j), m_scale));
    store_values(out[row] + row_element(i), fused, present - row_element(i), aligned);
  }
}

}  // namespace

void fuse_heads(const FuseHeadsArgs& args, const LaunchContext& context) {
  const RowTeams teams = row_teams("fuse_heads", args.out.dim(1));
  with_act_type(args.out.dtype(), [&](auto type) {
    using Act = decltype(type);
    const bool aligned =
        in_chunks<Act, kRowChunk>(args.attention) && in_chunks<Act, kRowChunk>(args.mamba) &&
        in_chunks<Act, kRowChunk>(args.out) && in_chunks<float, kRowChunk>(args.attention_weight) &&
        in_chunks<float, kRowChunk>(args.mamba_weight);
    launch("fuse_heads", context,
           teams.chunks_per_thread == kFewRowChunks ? fuse_heads_kernel<Act, kFewRowChunks>
                                                    : fuse_heads_kernel<Act, kManyRowChunks>,
           teams.grid(args.out.rows()), teams.block, 0, Rows<const Act>(args.attention),
           Rows<const Act>(args.mamba), args.attention_weight.data<float>(),
           args.mamba_weight.data<float>(), args.epsilon, Rows<Act>(args.out), args.out.rows(),
           args.out.dim(1), aligned);
  });
}

}  // namespace hymba::cuda
