// Work in the order in which blocks start.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hymba::cuda {

// How many of `count` blocks came here before this one. Work that is dealt out like this may wait
// for any that has a lower number: who has that has started, and needs nothing more to get done,
// which CUDA does not say of blocks with lower indices.
//
// `tickets` is LaunchContext::tickets, which nothing else counts at, so that it can be done before
// wait_for_predecessor; but before allow_successor, or a grid that follows soon might draw the
// rest. All threads of the block call it, once.
__device__ __forceinline__ int take_ticket(uint32_t* tickets, int count) {
  __shared__ uint32_t ticket;
  if (threadIdx.x == 0) ticket = atomicInc(tickets, static_cast<uint32_t>(count) - 1);
  __syncthreads();
  return static_cast<int>(ticket);
}

}  // namespace hymba::cuda
