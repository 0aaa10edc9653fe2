// The backend that runs on the CPU: plain, exact, and the specification of the others.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace hymba::cpu {

// A backend with `num_threads` threads, the calling one included; 0: one for each core that the
// process may run on. Throws kUnsupportedDevice when the CPU lacks the instructions that this build
// uses.
std::unique_ptr<Backend> make_cpu_backend(int num_threads);

}  // namespace hymba::cpu
