// The logarithm of a sum of exponentials of logits, put together from parts.
#pragma once

#include <cmath>

#include "cuda/device/reduce.cuh"
#include "ops/sampling_math.h"

namespace hymba::cuda {

// log Σ e^x = largest + log sum. Nothing added yet: {-∞, 0}.
struct LogSumExp {
  float largest;
  float sum;  // of e^(x - largest)

  // What `sum` is when the exponents are taken from `other_largest` ≥ largest.
  __device__ __forceinline__ float sum_from(float other_largest) const {
    return largest == -INFINITY ? 0.0f : sum * expf(largest - other_largest);
  }

  // Adds cleaned logits.
  template <int kCount>
  __device__ __forceinline__ void add(const float (&logits)[kCount]) {
    float new_largest = largest;
#pragma unroll
    for (int i = 0; i < kCount; ++i) new_largest = fmaxf(new_largest, logits[i]);
    if (new_largest == -INFINITY) return;
    float new_sum = sum_from(new_largest);
#pragma unroll
    for (int i = 0; i < kCount; ++i) new_sum += expf(logits[i] - new_largest);
    *this = {new_largest, new_sum};
  }

  // The difference of two numbers that can be large, hence fp64. The logarithm is at most
  // log 2^18 = 12.5, which fp32 holds to 1e-6.
  __device__ __forceinline__ double value() const {
    return largest == -INFINITY ? largest : static_cast<double>(largest) + portable_log(sum);
  }
};

// Every thread of the block gets the total. `slots`: one float a warp, as in `block_sum`.
__device__ __forceinline__ LogSumExp block_total(const LogSumExp& part, float* slots) {
  const float largest =
      block_reduce(part.largest, slots, [](float a, float b) { return fmaxf(a, b); });
  return {largest, block_sum(part.sum_from(largest), slots)};
}

// The log-probability of a logit in a row with that log Σ e^x. Logits that are all -∞ have no
// distribution: then -∞.
__device__ __forceinline__ float log_probability(float logit, double log_sum_exp) {
  const float cleaned = clean_logit(logit);
  return cleaned == -INFINITY ? cleaned : static_cast<float>(cleaned - log_sum_exp);
}

}  // namespace hymba::cuda
