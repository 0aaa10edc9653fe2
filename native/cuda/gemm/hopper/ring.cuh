// The stages that the weights of a product pass through in shared memory: one thread copies ahead,
// the warps that multiply follow, and each side waits for the other by a barrier a stage.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/ptx_sm90.cuh"

namespace hymba::cuda::hopper {

inline constexpr int kMaxStages = 32;

struct RingBarriers {
  Barrier full[kMaxStages];
  Barrier empty[kMaxStages];

  // By one thread, before the block's first __syncthreads.
  __device__ __forceinline__ void init(int stages, int readers) {
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(&full[stage], 1);
      init_barrier(&empty[stage], readers);
    }
    fence_barrier_init();
  }
};

// A place in the ring, and the parity of the round that it belongs to.
class RingPlace {
 public:
  __device__ __forceinline__ explicit RingPlace(int stages, int steps = 0)
      : stages_(stages), stage_(steps % stages), round_(steps / stages) {}

  __device__ __forceinline__ int stage() const { return stage_; }
  __device__ __forceinline__ uint32_t parity() const { return round_ & 1; }
  // Whether a reader may still be at what the stage held before.
  __device__ __forceinline__ bool reused() const { return round_ > 0; }
  __device__ __forceinline__ void advance() {
    if (++stage_ == stages_) {
      stage_ = 0;
      ++round_;
    }
  }

 private:
  int stages_;
  int stage_;
  int round_;
};

}  // namespace hymba::cuda::hopper
