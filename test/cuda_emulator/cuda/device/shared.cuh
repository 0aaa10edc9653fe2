// The dynamic shared memory of a block: native/cuda/device/shared.cuh for the emulator.
#pragma once

#include <cuda_runtime.h>

namespace hymba::cuda {

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emulator::dynamic_shared_memory());
}

}  // namespace hymba::cuda
