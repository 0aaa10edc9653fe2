// One row's options, on the device.
#pragma once

#include "cuda/sample/params.h"

namespace hymba::cuda {

__device__ __forceinline__ SamplingRow options_of_row(const SampleParams& params, int row) {
  constexpr int kWords = sizeof(SamplingRow) / sizeof(int32_t);
  struct {
    int32_t words[kWords];
  } raw;
#pragma unroll
  for (int i = 0; i < kWords; ++i) raw.words[i] = params.options[row * params.options_stride + i];
  return __builtin_bit_cast(SamplingRow, raw);
}

__device__ __forceinline__ bool is_greedy(const SamplingRow& options) {
  return options.temperature < kLowestTemperature;
}

// Whether the draw has to wait until the whole row has been ranked.
__device__ __forceinline__ bool has_filters(const SamplingRow& options) {
  return options.top_k > 0 || options.top_p < 1.0f || options.min_p > 0.0f;
}

}  // namespace hymba::cuda
