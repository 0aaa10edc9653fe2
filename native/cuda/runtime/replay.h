// Work that is captured as a CUDA graph once and launched as a whole from then on.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>

#include "cuda/runtime/handles.h"

namespace hymba::cuda {

class ReplayCache {
 public:
  // Runs `work` in the stream. The first time under a key as it is, which loads its kernels (a
  // capture must not); the second time it is captured; from then on the graph is launched.
  void run(cudaStream_t stream, uint64_t key, const std::function<void()>& work);

 private:
  std::unordered_map<uint64_t, GraphExec> graphs_;  // empty: ran once
};

}  // namespace hymba::cuda
