// How every kernel is launched.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/host_device.h"
#include "cuda/runtime/check.h"
#include "cuda/runtime/device_info.h"

namespace hymba::cuda {

// What a launcher works with: where to enqueue, what the device is, and memory to lay intermediate
// results in. A launcher never allocates, copies or synchronises, so that a CUDA graph can capture
// it.
struct LaunchContext {
  cudaStream_t stream = nullptr;
  const DeviceInfo* device = nullptr;

  // Zeroes between stages: a kernel that counts arrivals here leaves zeroes behind.
  uint32_t* counters = nullptr;
  int num_counters = 0;

  // One more of these, for device/ticket.cuh alone.
  uint32_t* tickets = nullptr;

  // Holds nothing from one stage to the next.
  void* scratch = nullptr;
  size_t scratch_bytes = 0;

  // The scratch as T. Throws kInternal when it has no room for `count` of them.
  template <typename T>
  T* scratch_for(int64_t count, const char* stage) const {
    check(static_cast<size_t>(count) * sizeof(T) <= scratch_bytes, stage, ": ", count * sizeof(T),
          " bytes of scratch needed, ", scratch_bytes, " planned");
    return static_cast<T*>(scratch);
  }
};

// kernel<<<grid, block, shared_bytes>>>(args...), in clusters of so many blocks. On devices that
// can, the grid may start while its predecessor drains (programmatic dependent launch): every
// kernel calls `wait_for_predecessor` (device/ptx.cuh) before it touches memory that an earlier one
// wrote, or writes what an earlier one may still read.
template <typename... Params, typename... Args>
void launch_clusters(const char* name, const LaunchContext& context, void (*kernel)(Params...),
                     int cluster, dim3 grid, dim3 block, size_t shared_bytes, Args&&... args) {
  // A kernel may use 48 KB without asking, its static shared memory included: half of it is left
  // for that.
  constexpr size_t kUnaskedBytes = 24 * 1024;
  if (shared_bytes > kUnaskedBytes)
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               name);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = context.stream;
  config.attrs = attributes;
  config.numAttrs = context.device->compute_major < 9 ? 0 : cluster == 1 ? 1 : 2;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...),
             name);
}

template <typename... Params, typename... Args>
void launch(const char* name, const LaunchContext& context, void (*kernel)(Params...), dim3 grid,
            dim3 block, size_t shared_bytes, Args&&... args) {
  launch_clusters(name, context, kernel, 1, grid, block, shared_bytes, std::forward<Args>(args)...);
}

template <typename T>
HYMBA_HD constexpr T ceil_div(T a, std::type_identity_t<T> b) {
  return (a + b - 1) / b;
}

// Shared memory to ask for, `bytes` or more, so that a multiprocessor takes no more of so many
// blocks than its even share: otherwise blocks that start while the predecessor drains crowd onto
// the multiprocessors that are free first, and others stay empty.
inline size_t spread_evenly(const LaunchContext& context, int64_t blocks, size_t bytes) {
  const int64_t share = ceil_div(blocks, context.device->num_sms);
  // The system takes some for each block: one more than the share does not fit.
  return std::max<size_t>(bytes, context.device->shared_bytes_per_sm / (share + 1));
}

}  // namespace hymba::cuda
