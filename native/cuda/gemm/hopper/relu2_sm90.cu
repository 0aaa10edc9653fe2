#include "cuda/gemm/hopper/launch_sm90.cuh"

namespace hymba::cuda::hopper {

template void hopper_gemm(const char*, const PackedOperands&, const GemmShape&, const StoredRows&,
                          const Relu2Epilogue<BFloat16>&, const LaunchContext&);
template void hopper_gemm(const char*, const PackedOperands&, const GemmShape&, const RmsNormRows&,
                          const Relu2Epilogue<BFloat16>&, const LaunchContext&);

}  // namespace hymba::cuda::hopper
