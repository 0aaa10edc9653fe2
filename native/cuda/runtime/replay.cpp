#include "cuda/runtime/replay.h"

namespace hymba::cuda {
namespace {

using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroy<cudaGraphDestroy>>;

GraphExec capture(cudaStream_t stream, const std::function<void()>& work) {
  // Thread-local: other threads of the process may go on allocating meanwhile.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a graph");
  cudaGraph_t captured = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &captured);
    const Graph dropped(captured);
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream, &captured), "ending the capture of a graph");
  const Graph graph(captured);
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaGraphInstantiate(&exec, graph.get(), 0), "instantiating a graph");
  return GraphExec(exec);
}

}  // namespace

void ReplayCache::run(cudaStream_t stream, uint64_t key, const std::function<void()>& work) {
  const auto [entry, is_new] = graphs_.try_emplace(key);
  if (is_new) {
    work();
    return;
  }
  if (entry->second == nullptr) entry->second = capture(stream, work);
  check_cuda(cudaGraphLaunch(entry->second.get(), stream), "launching a graph");
}

}  // namespace hymba::cuda
