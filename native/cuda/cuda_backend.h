// The stages on an NVIDIA GPU.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace hymba::cuda {

// The device is looked for when memory is first asked for, so that plans can be made where there is
// none. From then on: kNoDevice, kUnsupportedDevice, kOutOfMemory, kDeviceLost.
std::unique_ptr<Backend> make_cuda_backend();

}  // namespace hymba::cuda
