// The three RMSNorms of x_proj's output, each over its part of a row.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "ops/ops.h"

namespace hymba::cuda {

struct XProjNorms {
  static constexpr int kSegments = 3;
  struct Segment {
    const float* weight;
    int count;

    explicit Segment(const TensorView& view)
        : weight(view.data<float>()), count(static_cast<int>(view.rows())) {}
  };
  Segment segments[kSegments];
  float epsilon;

  explicit XProjNorms(const XProjArgs& args)
      : segments{Segment(args.dt_norm), Segment(args.b_norm), Segment(args.c_norm)},
        epsilon(args.epsilon) {}

  // The same with the weights copied to `to`, by all threads of the block.
  __device__ __forceinline__ XProjNorms load(float* to) const {
    XProjNorms norms = *this;
#pragma unroll
    for (int i = 0; i < kSegments; ++i) {
      for (int col = threadIdx.x; col < segments[i].count; col += blockDim.x)
        to[col] = segments[i].weight[col];
      norms.segments[i].weight = to;
      to += segments[i].count;
    }
    return norms;
  }
};

// One segment of a row, by a warp.
template <typename Act>
__device__ __forceinline__ void normalize_x_proj(const float* from, const XProjNorms& norms,
                                                 int segment, Act* to) {
  const float* weight = nullptr;
  int first = 0;
  int count = 0;
#pragma unroll  // or they would have to lie in memory
  for (int i = 0; i < XProjNorms::kSegments; ++i) {
    if (i < segment) first += norms.segments[i].count;
    if (i == segment) {
      weight = norms.segments[i].weight;
      count = norms.segments[i].count;
    }
  }
  from += first;
  to += first;
  const int lane = threadIdx.x % kWarp;
  float squares = 0.0f;
  for (int col = lane; col < count; col += kWarp) squares = fmaf(from[col], from[col], squares);
  const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(count) + norms.epsilon);
  for (int col = lane; col < count; col += kWarp)
    to[col] = as_act<Act>(weight[col] * (from[col] * scale));
}

}  // namespace hymba::cuda
