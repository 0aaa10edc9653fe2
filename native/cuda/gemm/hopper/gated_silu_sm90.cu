#include "cuda/gemm/hopper/launch_sm90.cuh"

namespace hymba::cuda::hopper {

template void hopper_gemm(const char*, const PackedOperands&, const GemmShape&,
                          const GatedSiluEpilogue<BFloat16>&, const LaunchContext&);

}  // namespace hymba::cuda::hopper
