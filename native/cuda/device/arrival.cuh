// Blocks that work on the same thing, of which the last one finishes it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/ptx.cuh"

namespace hymba::cuda {

// Whether this block is the last of `count` to arrive at the counter, which is then 0 again. What
// the others wrote before they arrived is there to be read. All threads of the block call it.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, int count) {
  __shared__ bool is_last;
  const uint32_t last = static_cast<uint32_t>(count) - 1;
  __syncthreads();
  if (threadIdx.x == 0) is_last = arrive(counter, last) == last;
  __syncthreads();
  return is_last;
}

}  // namespace hymba::cuda
