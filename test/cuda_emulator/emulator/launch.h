// From kernel<<<…>>>(…) to a grid that can be run, later and more than once.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator/errors.h"
#include "emulator/runtime_api.h"
#include "emulator/vector_types.h"

namespace emulator {

struct Grid {
  const void* kernel = nullptr;  // for its name
  std::function<void()> thread;  // the kernel with its arguments
  dim3 num_blocks;
  dim3 block;
  size_t shared_bytes = 0;
  bool overlaps_predecessor = false;
};

struct GridResult {
  cudaError_t error = cudaSuccess;
  std::string message;
};

// Runs all threads of all blocks.
GridResult run_grid(const Grid& grid);

// Checks `grid` against the device's limits and puts it into the stream.
cudaError_t enqueue_grid(const cudaLaunchConfig_t& config, Grid grid);

}  // namespace emulator

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "arguments travel as bytes");
  static_assert((sizeof(Params) + ... + 0) <= 4096, "more than the device takes");
  emulator::Grid grid;
  grid.kernel = reinterpret_cast<const void*>(kernel);
  grid.thread = [kernel, params = std::tuple<Params...>(static_cast<Params>(args)...)] {
    std::apply(kernel, params);
  };
  return emulator::enqueue_grid(*config, std::move(grid));
}
