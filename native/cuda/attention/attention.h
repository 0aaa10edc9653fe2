// What the attention stage needs besides its Args.
#pragma once

#include <cstddef>

#include "ops/ops.h"

namespace hymba::cuda {

// Partial results of the split-K/V kernel, for the largest step.
size_t attention_scratch_bytes(const StageLimits& limits);

}  // namespace hymba::cuda
