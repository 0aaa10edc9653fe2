// A layer's heads in one launch, for steps of decoding: what `run` of HybridHeadsArgs needs.
#pragma once

#include <cstddef>

#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

// Whether the kernel can do it; else the six stages one after the other can.
bool fuses_heads(const HybridHeadsArgs& args, const LaunchContext& context);

void hybrid_heads(const HybridHeadsArgs& args, const LaunchContext& context);

size_t hybrid_heads_scratch_bytes(const StageLimits& limits);

}  // namespace hymba::cuda
