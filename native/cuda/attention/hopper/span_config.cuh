// Sizes of a block that attends to prompts, by the head dims.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"
#include "core/page.h"
#include "cuda/device/panels.cuh"
#include "cuda/device/reduce.cuh"

namespace hymba::cuda::hopper {

// Of a warpgroup.
inline constexpr int kGroupThreads = 128;
inline constexpr int kGroupRows = 64;
inline constexpr int kGroupWarps = kGroupThreads / kWarp;
inline constexpr int kStages = 6;

template <int kHeadDim_, int kValueDim_>
struct SpanConfig {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kValueDim = kValueDim_;
  // What queries of 128 elements leave of the registers is not enough for three.
  static constexpr int kWarpgroups = kHeadDim == 64 ? 3 : 2;
  static constexpr int kRows = kWarpgroups * kGroupRows;
  static constexpr int kReaderWarps = kWarpgroups * kGroupWarps;
  static constexpr int kThreads = (kWarpgroups + 1) * kGroupThreads;
  // Of a thread at launch, of one that multiplies, and of one that copies.
  static constexpr int kLaunchRegisters = 64 * 1024 / kThreads / 8 * 8;
  static constexpr int kReaderRegisters = kWarpgroups == 3 ? 160 : 232;
  static constexpr int kCopierRegisters =
      (kWarpgroups + 1) * kLaunchRegisters - kWarpgroups * kReaderRegisters;
  static_assert(kCopierRegisters == (kWarpgroups == 3 ? 32 : 40));
  static constexpr int kPanelRowBytes = kPanelElements * int{sizeof(BFloat16)};
  static constexpr int kPanelBytes = kPageTokens * kPanelRowBytes;
  static constexpr int kKeyPanels = kHeadDim / kPanelElements;
  static constexpr int kPanels = kKeyPanels + kValueDim / kPanelElements;
  static constexpr int kStageBytes = kPanels * kPanelBytes;
  static constexpr int kOutBytes = kRows * kValueDim * int{sizeof(BFloat16)};
  static constexpr int kBytes = kStages * kStageBytes + kOutBytes;
  static_assert(kBytes <= 226 * 1024, "1 KB of what a block may have is left for barriers");
};

}  // namespace hymba::cuda::hopper
