#include "cuda/runtime/staging.h"

#include <algorithm>

namespace hymba::cuda {

UploadRing::UploadRing(cudaStream_t stream, int num_buffers, size_t buffer_bytes)
    : stream_(stream), buffer_bytes_(buffer_bytes) {
  for (int i = 0; i < num_buffers; ++i)
    buffers_.push_back({allocate_pinned(buffer_bytes), make_event()});
}

void UploadRing::pass(const std::function<void(void*)>& fill,
                      const std::function<void(const void*)>& enqueue) {
  Buffer& buffer = buffers_[next_];
  next_ = (next_ + 1) % buffers_.size();
  // An event that was never recorded counts as done.
  check_cuda(cudaEventSynchronize(buffer.free.get()), "waiting for an upload");
  fill(buffer.memory.get());
  enqueue(buffer.memory.get());
  check_cuda(cudaEventRecord(buffer.free.get(), stream_), "recording an upload");
}

DownloadPool::Buffer DownloadPool::take(size_t bytes) {
  const auto fits = [bytes](const Buffer& buffer) { return buffer.bytes >= bytes; };
  const auto found = std::find_if(free_.begin(), free_.end(), fits);
  if (found == free_.end()) return {allocate_pinned(bytes), bytes, make_event()};
  Buffer buffer = std::move(*found);
  free_.erase(found);
  return buffer;
}

void DownloadPool::give_back(Buffer buffer) { free_.push_back(std::move(buffer)); }

}  // namespace hymba::cuda
