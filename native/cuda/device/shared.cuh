// The dynamic shared memory of a block.
#pragma once

#include <cuda_runtime.h>

namespace hymba::cuda {

// Aligned to 1024 bytes, as the 128-byte swizzle's tiles of 8 rows need.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char hymba_dynamic_shared[];
  return reinterpret_cast<T*>(hymba_dynamic_shared);
}

}  // namespace hymba::cuda
