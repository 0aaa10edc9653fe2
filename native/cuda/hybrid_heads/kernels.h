// The two launches, in their order, and what they take.
#pragma once

#include <cstdint>

#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

// Attention heads from the rotation on, and beside them the Mamba heads up to dt, B and C.
void attend_and_project(const HybridHeadsArgs& args, const LaunchContext& context);

// The rest of the Mamba heads: from dt, B and C to the gated output.
void step_states(const DtProjArgs& dt_proj, const SelectiveScanArgs& scan,
                 const LaunchContext& context);

inline constexpr int64_t kMaxStepRank = 128;   // R
inline constexpr int64_t kMaxStepStates = 16;  // N
// Of the convolution: the only one that models have, and so the only one that is compiled.
inline constexpr int64_t kFusedConvWidth = 4;

}  // namespace hymba::cuda
