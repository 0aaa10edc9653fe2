// The door to the stages: JavaScript calls each of them on a device of its choice
// (lib/kernels.ts).
#pragma once

#include "addon/napi_setup.h"

namespace hymba {

// Exports the class NativeKernelDevice.
void init_kernels_wrap(Napi::Env env, Napi::Object exports);

}  // namespace hymba
