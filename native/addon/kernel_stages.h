// The stages of ops/ops.h by the names that JavaScript calls them by.
#pragma once

#include <string>

#include "addon/kernel_args.h"

namespace hymba {

// Reads the stage's Args from `fields` and runs it. Throws what the reading (kernel_args.h) and the
// stage throw; kInvalidArgument for a stage that there is not.
void run_kernel_stage(Backend& backend, const std::string& stage, Napi::Object fields,
                      const KernelHeap& heap);

}  // namespace hymba
