// What the x_proj stage needs besides its Args.
#pragma once

#include <cstddef>

#include "ops/ops.h"

namespace hymba::cuda {

// The product before its norms, in fp32, for the largest step.
size_t x_proj_scratch_bytes(const StageLimits& limits);

}  // namespace hymba::cuda
