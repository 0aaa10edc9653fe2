#include "addon/make_backend.h"

#include "cpu/cpu_backend.h"
#ifdef HYMBA_WITH_CUDA
#include "cuda/cuda_backend.h"
#endif

namespace hymba {

std::unique_ptr<Backend> make_backend(const std::string& device, int num_threads) {
  if (device == "cpu") return cpu::make_cpu_backend(num_threads);
#ifdef HYMBA_WITH_CUDA
  if (device == "cuda") return cuda::make_cuda_backend();
#endif
  fail(ErrorCode::kNoDevice, "there is no backend for device \"", device, "\" in this build");
}

}  // namespace hymba
