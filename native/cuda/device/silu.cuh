// x · sigmoid(x), two approximate instructions and three others.
#pragma once

#include "cuda/device/log2e.h"
#include "cuda/device/ptx.cuh"

namespace hymba::cuda {

// Relative error below 2e-6 for |x| ≤ 20, growing with |x| for negative x as rounding of the
// exponent does; -0 below about -88, where silu is less than 1e-36.
__device__ __forceinline__ float silu(float x) {
  return x * reciprocal_approx(1.0f + exp2_approx(-kLog2E * x));
}

}  // namespace hymba::cuda
