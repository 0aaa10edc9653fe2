// The GPUs that this addon sees. Works, and says why there are none, without a driver and in a
// build without CUDA.
#pragma once

#include <napi.h>

namespace hymba {

// { driverVersion, runtimeVersion, problem, devices: [{ name, computeCapability, multiprocessors,
// memoryBytes, availableBytes, problem }] }. Versions are "13.0", null where there is none.
// `problem` is why nothing can be used, or null; that of a device says why a kernel of this build
// did not run on it.
Napi::Object probe_devices(Napi::Env env);

}  // namespace hymba
