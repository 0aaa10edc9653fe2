// Blocks that work on the same thing, of which the last one finishes it, and blocks that go on with
// what others have finished.
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

// Between blocks of a grid that write something and those that read it. Both count at the counter,
// which is 0 again after the last of them; until a block has passed it stays open.
struct Gate {
  uint32_t* counter;
  int num_openers;
  int num_passers;

  // What the block wrote before can be read by those that pass. All threads of the block call it.
  __device__ __forceinline__ void open() const {
    __syncthreads();
    if (threadIdx.x == 0) count_arrival(counter, last());
  }

  // Waits for all openers, which are sure to run (take_ticket). All threads of the block call it.
  __device__ __forceinline__ void pass() const {
    if (threadIdx.x == 0) {
      wait_for_count(counter, static_cast<uint32_t>(num_openers));
      atomicInc(counter, last());
    }
    __syncthreads();
  }

 private:
  __device__ __forceinline__ uint32_t last() const {
    return static_cast<uint32_t>(num_openers + num_passers) - 1;
  }
};

}  // namespace hymba::cuda
