// Products on parts of compute capability 9.0.
#pragma once

#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/hopper/plan.h"
#include "cuda/gemm/packed_operands.h"
#include "cuda/runtime/launch.h"

namespace hymba::cuda::hopper {

// Which epilogues there are kernels for.
template <typename Epilogue>
inline constexpr bool kHasKernels = false;
template <>
inline constexpr bool kHasKernels<StoreEpilogue<BFloat16>> = true;
template <>
inline constexpr bool kHasKernels<StoreEpilogue<float>> = true;
template <>
inline constexpr bool kHasKernels<GatedSiluEpilogue<BFloat16>> = true;
template <>
inline constexpr bool kHasKernels<Relu2Epilogue<BFloat16>> = true;

// Defined for those in files of their own, which are compiled for sm_90a.
template <typename Epilogue>
void hopper_gemm(const char* stage, const PackedOperands& operands, const GemmShape& shape,
                 const Epilogue& epilogue, const LaunchContext& context);

}  // namespace hymba::cuda::hopper
