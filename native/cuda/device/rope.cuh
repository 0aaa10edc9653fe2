// Rotary positions: the arithmetic of rotary_kv_write, and of whoever rotates on the way.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/chunk.cuh"

namespace hymba::cuda {

// Of a chunk, as they lie side by side in a page of K/V.
inline constexpr int kRopeElements = 8;

// Elements i and i + Dk/2. Each product but one is rounded on its own, and which is stated: the
// same bits wherever it is compiled.
__device__ __forceinline__ void rotate_pair(float& low, float& high, float cosine, float sine) {
  const float rotated = fmaf(low, cosine, -(high * sine));
  high = fmaf(high, cosine, low * sine);
  low = rotated;
}

// Chunks c and c + half of one head.
struct HeadPart {
  float low[kRopeElements];
  float high[kRopeElements];
};

__device__ __forceinline__ void rotate(HeadPart& part, const float* cosines, const float* sines) {
  float cosine[kRopeElements], sine[kRopeElements];
  unpack(cosine, load_chunk<kRopeElements>(cosines, kRopeElements, true));
  unpack(sine, load_chunk<kRopeElements>(sines, kRopeElements, true));
#pragma unroll
  for (int i = 0; i < kRopeElements; ++i)
    rotate_pair(part.low[i], part.high[i], cosine[i], sine[i]);
}

}  // namespace hymba::cuda
