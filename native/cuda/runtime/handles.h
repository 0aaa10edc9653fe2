// Streams, events, graphs and memory of CUDA, each freed with its object.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "cuda/runtime/check.h"

namespace hymba::cuda {

// Calls a CUDA function on a handle. Its result is dropped: a destructor can do nothing about it,
// and after a device error every later call reports that.
template <auto kDestroy>
struct Destroy {
  template <typename Handle>
  void operator()(Handle* handle) const {
    kDestroy(handle);
  }
};

using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy<cudaStreamDestroy>>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy<cudaEventDestroy>>;
using GraphExec =
    std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy<cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<void, Destroy<cudaFree>>;
// Page-locked: what the device copies from and to without staging.
using PinnedMemory = std::unique_ptr<void, Destroy<cudaFreeHost>>;

Stream make_stream();
// Without timing, unless asked for: waiting for it is cheaper then.
Event make_event(bool timing = false);
DeviceMemory allocate_device(size_t bytes);
PinnedMemory allocate_pinned(size_t bytes);

}  // namespace hymba::cuda
