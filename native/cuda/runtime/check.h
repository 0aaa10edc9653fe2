// Turns errors of the CUDA runtime into the project's own.
#pragma once

#include <cuda_runtime.h>

#include "core/error.h"

namespace hymba::cuda {

// Throws unless `status` is cudaSuccess: kOutOfMemory when memory ran out, kUnsupportedDevice when
// the build has no code for the device, kDeviceLost for errors that the CUDA context does not
// recover from, else kInternal. `what` says what was tried.
void check_cuda(cudaError_t status, const char* what);

}  // namespace hymba::cuda
