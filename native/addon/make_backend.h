// The one place that knows which backends there are.
#pragma once

#include <memory>
#include <string>

#include "ops/ops.h"

namespace hymba {

// device: "cpu", or "cuda" in a build with CUDA. num_threads, of the CPU backend; 0: one for each
// core. Throws kNoDevice, kUnsupportedDevice.
std::unique_ptr<Backend> make_backend(const std::string& device, int num_threads);

}  // namespace hymba
