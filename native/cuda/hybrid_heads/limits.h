// What the kernel of the fused heads is compiled for.
#pragma once

#include <cstdint>

namespace hymba::cuda {

inline constexpr int64_t kMaxStepRank = 128;   // R
inline constexpr int64_t kMaxStepStates = 16;  // N
// Of the convolution: the only one that models have, and so the only one that is compiled.
inline constexpr int64_t kFusedConvWidth = 4;

}  // namespace hymba::cuda
