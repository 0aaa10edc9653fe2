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

// Bytes of a block's weights that are under way at most, from memory to the ring: enough to keep
// memory busy, with 132 blocks 3.7 MB. What others ask for meanwhile need not wait behind a whole
// ring, above all what the predecessor still needs.
inline constexpr int kBytesUnderWay = 28 * 1024;

// Sees to that, for the thread that copies.
class CopyLimit {
 public:
  __device__ __forceinline__ CopyLimit(int stages, int stage_bytes)
      : oldest_(stages), limit_(max(1, kBytesUnderWay / stage_bytes)) {}

  // Copies that may be under way. Once only so many are left to be asked for, the successor may
  // start: its first copies then follow the last of these at once, and are not in their way.
  __device__ __forceinline__ int copies() const { return limit_; }

  // Before each copy. `arrived`: of each stage, gets its copies.
  __device__ __forceinline__ void wait(Barrier* arrived) {
    if (under_way_ < limit_) {
      ++under_way_;
      return;
    }
    wait_for_phase(&arrived[oldest_.stage()], oldest_.parity());
    oldest_.advance();
  }

 private:
  RingPlace oldest_;
  int limit_;
  int under_way_ = 0;
};

}  // namespace hymba::cuda::hopper
