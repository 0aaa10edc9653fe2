// native/cuda/device/ptx.cuh for the emulator: the same functions, which that file explains.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hymba::cuda {

// --- Programmatic dependent launch --------------------------------------------------------------

inline void wait_for_predecessor() { emulator::note_wait_for_predecessor(); }

inline void allow_successor() {}

// --- Asynchronous copies from global to shared memory -------------------------------------------

inline void copy_16_async(void* shared, const void* global, int valid_bytes = 16,
                          HYMBA_EMULATOR_SITE) {
  emulator::copies_of_thread().start(shared, global, valid_bytes, site);
}

inline void copy_16_async_once(void* shared, const void* global, int valid_bytes = 16,
                               HYMBA_EMULATOR_SITE) {
  emulator::copies_of_thread().start(shared, global, valid_bytes, site);
}

inline void commit_copies() { emulator::copies_of_thread().commit(); }

template <int kPending>
void wait_copies() {
  emulator::copies_of_thread().wait(kPending);
}

// --- Barriers of a block ------------------------------------------------------------------------

class Meeting {
 public:
  void init(int threads) { threads_ = threads; }

  void meet(HYMBA_EMULATOR_SITE) {
    if (threads_ != static_cast<int>(blockDim.x))
      emulator::fail_thread(cudaErrorLaunchFailure, "a Meeting is of all threads of a block");
    emulator::meet_block(emulator::Barrier::kPlain, site);
  }

 private:
  int64_t threads_;
};

// --- Tensor cores -------------------------------------------------------------------------------

inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        HYMBA_EMULATOR_SITE) {
  emulator::MmaArguments arguments{d, a, b};
  emulator::meet_warp<emulator::MmaArguments, emulator::mma_16x8x16_all>("mma_16x8x16", site,
                                                                         0xffffffffu, arguments);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* shared_row, HYMBA_EMULATOR_SITE) {
  emulator::LoadMatrixArguments arguments{r, shared_row};
  emulator::meet_warp<emulator::LoadMatrixArguments, emulator::load_matrix_x4_all<false>>(
      "load_matrix_x4", site, 0xffffffffu, arguments);
}

inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared_row,
                                      HYMBA_EMULATOR_SITE) {
  emulator::LoadMatrixArguments arguments{r, shared_row};
  emulator::meet_warp<emulator::LoadMatrixArguments, emulator::load_matrix_x4_all<true>>(
      "load_matrix_x4_transposed", site, 0xffffffffu, arguments);
}

// --- Conversions and special functions ----------------------------------------------------------

inline uint32_t pack_bf16x2(float low, float high) {
  const auto round = [](float value) -> uint32_t {
    const uint32_t bits = __float_as_uint(value);
    if (value != value) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return round(high) << 16 | round(low);
}

// Subnormal numbers become zeroes of their sign.
inline float flush_subnormal(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

inline float exp2_approx(float x) { return flush_subnormal(exp2f(flush_subnormal(x))); }

inline float reciprocal_approx(float x) { return flush_subnormal(1.0f / flush_subnormal(x)); }

// --- Memory order and cache hints ---------------------------------------------------------------

inline uint4 load_16_streaming(const void* global) { return *static_cast<const uint4*>(global); }

inline void store_16_once(float* global, float4 v) { *reinterpret_cast<float4*>(global) = v; }
inline void prefetch_to_l2(const void*) {}

inline uint32_t arrive(uint32_t* counter, uint32_t last) { return atomicInc(counter, last); }
inline void count_arrival(uint32_t* counter, uint32_t last) { atomicInc(counter, last); }

// Blocks run to their end one after the other: who would have to wait, would wait forever.
inline void wait_for_count(const uint32_t* counter, uint32_t count) {
  if (*counter < count)
    emulator::fail_thread(cudaErrorLaunchFailure,
                          "it waits for blocks that need not have started before its own");
}

}  // namespace hymba::cuda
