// Products on parts of compute capability 9.0.
#pragma once

#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/hopper/plan.h"
#include "cuda/gemm/hopper/row_inputs.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/runtime/launch.h"

namespace hymba::cuda::hopper {

// Which epilogues there are kernels for, with activations from where.
template <typename Input, typename Epilogue>
inline constexpr bool kHasKernels = false;
template <>
inline constexpr bool kHasKernels<StoredRows, StoreEpilogue<BFloat16>> = true;
template <>
inline constexpr bool kHasKernels<StoredRows, StoreEpilogue<float>> = true;
template <>
inline constexpr bool kHasKernels<StoredRows, GatedSiluEpilogue<BFloat16>> = true;
template <>
inline constexpr bool kHasKernels<StoredRows, Relu2Epilogue<BFloat16>> = true;
// These only where plan.h `normalises_rows`.
template <typename Epilogue>
inline constexpr bool kHasKernels<RmsNormRows, Epilogue> = kHasKernels<StoredRows, Epilogue>;
template <>
inline constexpr bool kHasKernels<FusedHeadsRows, StoreEpilogue<float>> = true;

// Defined for those in files of their own, which are compiled for sm_90a.
template <typename Input, typename Epilogue>
void hopper_gemm(const char* stage, const PackedOperands& operands, const GemmShape& shape,
                 const Input& input, const Epilogue& epilogue, const LaunchContext& context);

}  // namespace hymba::cuda::hopper
