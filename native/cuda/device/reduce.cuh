// Sums and maxima over a warp or a block, in an order that never changes.
#pragma once

#include <cuda_runtime.h>

namespace hymba::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// Every lane gets the sum, by a butterfly: all lanes compute the same bits.
template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = value > other ? value : other;
  }
  return value;
}

// Every thread of the block gets the sum. `slots` is shared memory of one T a warp, which nothing
// else uses until the block has met again.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* slots) {
  const int warps = (blockDim.x + kWarp - 1) / kWarp;
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = slots[0];
  for (int i = 1; i < warps; ++i) sum += slots[i];
  __syncthreads();
  return sum;
}

// The same for any commutative and associative `combine(a, b)`.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T* slots, const Combine& combine) {
  const int warps = (blockDim.x + kWarp - 1) / kWarp;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = value;
  __syncthreads();
  T result = slots[0];
  for (int i = 1; i < warps; ++i) result = combine(result, slots[i]);
  __syncthreads();
  return result;
}

}  // namespace hymba::cuda
