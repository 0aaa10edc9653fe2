// Computes  out = weight · in / sqrt(mean(in²) + epsilon), row by row.
// Shapes    in [T, D] act or fp32, weight [D] fp32, out [T, D] act; out may be in; rows strided.
// Mapping   a team of threads a row, 8 elements a thread (device/row_norm.cuh). The weight is read
//           before the predecessor has ended: it comes from HBM while the row waits in the L2.
// Shared memory  a float a warp.
// Numerics  everything in fp32; one rounding to the output's dtype. A row's bits depend on its
//           width alone.
// Limits    D ≤ 16,384.
// Cost      T·D·(in + out) bytes, D·4 of weight; bound by memory, in decode by latency.

#include "cuda/device/row_norm.cuh"
#include "cuda/device/views.cuh"
#include "cuda/dispatch.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

template <typename In, typename Out, int kChunks>
__global__ void __launch_bounds__(kMaxTeamThreads)
    rms_norm_kernel(Rows<const In> in, const float* weight, float epsilon, Rows<Out> out,
                    int num_rows, int width, bool aligned) {
  __shared__ TeamSlots<1> slots;
  allow_successor();
  // With four chunks a thread the registers are needed for the row.
  constexpr bool kEarlyWeight = kChunks == kFewRowChunks;
  RowChunks<float, kChunks> weights;
  if constexpr (kEarlyWeight) weights.load(weight, width, aligned);
  wait_for_predecessor();

  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const int present = row < num_rows ? width : 0;
  RowChunks<In, kChunks> values;
  values.load(in[row], present, aligned);
  float sums[1] = {values.square_sum()};
  team_sums(sums, slots);
  const float scale = rms_scale(sums[0], width, epsilon);

#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if constexpr (!kEarlyWeight) weights.load(i, weight, width, aligned);
    float normed[kRowChunk];
#pragma unroll
    for (int j = 0; j < kRowChunk; ++j)
      normed[j] = normed_value(element(weights.chunks[i], j), element(values.chunks[i], j), scale);
    store_values(out[row] + row_element(i), normed, present - row_element(i), aligned);
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const LaunchContext& context) {
  const RowTeams teams = row_teams("rms_norm", args.in.dim(1));
  with_act_type(args.in.dtype(), [&](auto in_type) {
    with_act_type(args.out.dtype(), [&](auto out_type) {
      using In = decltype(in_type);
      using Out = decltype(out_type);
      const bool aligned = in_chunks<In, kRowChunk>(args.in) &&
                           in_chunks<Out, kRowChunk>(args.out) &&
                           in_chunks<float, kRowChunk>(args.weight);
      launch("rms_norm", context,
             teams.chunks_per_thread == kFewRowChunks ? rms_norm_kernel<In, Out, kFewRowChunks>
                                                      : rms_norm_kernel<In, Out, kManyRowChunks>,
             teams.grid(args.in.rows()), teams.block, 0, Rows<const In>(args.in),
             args.weight.data<float>(), args.epsilon, Rows<Out>(args.out), args.in.rows(),
             args.in.dim(1), aligned);
    });
  });
}

}  // namespace hymba::cuda
