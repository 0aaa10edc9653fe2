// What the sample stage needs besides its Args.
#pragma once

#include <cstddef>

#include "ops/ops.h"

namespace hymba::cuda {

size_t sample_scratch_bytes(const StageLimits& limits);

}  // namespace hymba::cuda
