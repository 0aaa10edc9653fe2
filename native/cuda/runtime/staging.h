// Page-locked memory through which bytes cross between host and device without waiting.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "cuda/runtime/handles.h"

namespace hymba::cuda {

// A ring of page-locked buffers for what goes to the device: the host fills one while the device
// still reads the others.
class UploadRing {
 public:
  // The device may still read a buffer while the host is at most `num_buffers` - 1 further.
  UploadRing(cudaStream_t stream, int num_buffers, size_t buffer_bytes);

  size_t buffer_bytes() const { return buffer_bytes_; }

  // Waits until the next buffer is free, has `fill` write to it, and has `enqueue` put the work
  // that reads it into the stream.
  void pass(const std::function<void(void*)>& fill,
            const std::function<void(const void*)>& enqueue);

 private:
  struct Buffer {
    PinnedMemory memory;
    Event free;  // recorded behind the work that reads the buffer
  };

  cudaStream_t stream_;
  size_t buffer_bytes_;
  std::vector<Buffer> buffers_;
  size_t next_ = 0;
};

// Page-locked buffers for what comes from the device, reused once their reader is done.
class DownloadPool {
 public:
  struct Buffer {
    PinnedMemory memory;
    size_t bytes = 0;
    Event arrived;
  };

  // One of at least that size.
  Buffer take(size_t bytes);
  void give_back(Buffer buffer);

 private:
  std::vector<Buffer> free_;
};

}  // namespace hymba::cuda
