// What the code of a kernel sees of the block that runs: its coordinates, barriers, failures.
#pragma once

#include <source_location>
#include <string>
#include <vector>

#include "emulator/errors.h"
#include "emulator/vector_types.h"

inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;
inline constexpr int warpSize = 32;

namespace emulator {

using Site = std::source_location;

enum class Barrier { kPlain, kCount, kAnd, kOr };

// Meets the other threads of the block. Returns on how many of them `predicate` is true, or, for
// kAnd and kOr, whether on all or any.
int meet_block(Barrier kind, const Site& site, bool predicate = false);

// Ends the grid with an error, in the name of the current thread.
[[noreturn]] void fail_thread(cudaError_t error, const std::string& what);

// Notes that the current thread waited for the grids before.
void note_wait_for_predecessor();

// The block's dynamic shared memory: aligned to 1024 bytes, NaNs when the block starts.
void* dynamic_shared_memory();

}  // namespace emulator

inline void __syncthreads(const emulator::Site& site = emulator::Site::current()) {
  emulator::meet_block(emulator::Barrier::kPlain, site);
}
inline int __syncthreads_count(int predicate,
                               const emulator::Site& site = emulator::Site::current()) {
  return emulator::meet_block(emulator::Barrier::kCount, site, predicate != 0);
}
inline int __syncthreads_and(int predicate,
                             const emulator::Site& site = emulator::Site::current()) {
  return emulator::meet_block(emulator::Barrier::kAnd, site, predicate != 0);
}
inline int __syncthreads_or(int predicate, const emulator::Site& site = emulator::Site::current()) {
  return emulator::meet_block(emulator::Barrier::kOr, site, predicate != 0);
}

// All threads of a grid run on one thread of the CPU: only the compiler could reorder.
inline void __threadfence_block() { asm volatile("" ::: "memory"); }
inline void __threadfence() { asm volatile("" ::: "memory"); }
inline void __threadfence_system() { asm volatile("" ::: "memory"); }

[[noreturn]] inline void __trap() {
  emulator::fail_thread(cudaErrorLaunchFailure, "it called __trap()");
}
