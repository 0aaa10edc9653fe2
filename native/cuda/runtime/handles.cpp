#include "cuda/runtime/handles.h"

namespace hymba::cuda {

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  return Stream(stream);
}

Event make_event(bool timing) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming),
             "creating an event");
  return Event(event);
}

DeviceMemory allocate_device(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next call must not find it
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    fail(ErrorCode::kOutOfMemory, "cannot allocate ", bytes, " bytes of GPU memory: ", free_bytes,
         " of ", total_bytes, " are free");
  }
  check_cuda(status, "allocating GPU memory");
  return DeviceMemory(memory);
}

PinnedMemory allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMallocHost(&memory, bytes), "allocating page-locked memory");
  return PinnedMemory(memory);
}

}  // namespace hymba::cuda
