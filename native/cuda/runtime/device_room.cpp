#include "cuda/runtime/device_room.h"

#include <algorithm>

#include "cuda/runtime/check.h"

namespace hymba::cuda {
namespace {

// What CUDA allocates by itself after a model has been loaded: the code of a kernel at its first
// launch, and a graph for each batch size that is decoded. An allocation that fails in the middle
// of a step would cost the model.
constexpr size_t kRuntimeBytes = size_t{256} << 20;

}  // namespace

DeviceRoom device_room() {
  DeviceRoom room;
  check_cuda(cudaMemGetInfo(&room.free_bytes, &room.total_bytes), "asking for free memory");
  room.available_bytes = room.free_bytes - std::min(room.free_bytes, kRuntimeBytes);
  return room;
}

}  // namespace hymba::cuda
