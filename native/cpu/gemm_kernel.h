// The innermost part of a matrix product, compiled once for each instruction set.
//
// Numerics: an output element is the fp32 sum over k of a[k] · w[k], and always the same sum: lane
// l of sixteen adds up the products of k = l, l + 16, l + 32, … by fused multiply-adds in that
// order, and the lanes are then added as a tree (8 apart, 4, 2, 1). Hence its bits do not depend on
// how many rows there are, on where in a tile it falls, on threads or on the instruction set.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace hymba::cpu {

// out[i, j] = Σ_k a[i, k] · w[j, k] for i < rows, j < cols, k < depth. Strides are in elements.
// Nothing need be aligned beyond what its type asks for; weights are read where the checkpoint put
// them, so that not even that holds for them.
struct GemmBlock {
  const void* a;
  const void* w;  // rows of `depth` elements, one after the other
  float* out;
  int64_t a_stride;
  int64_t out_stride;
  int64_t rows;
  int64_t cols;
  int64_t depth;
};

using GemmKernel = void (*)(const GemmBlock& block);

// The kernel for activations and weights of these types, or null when there is none. Each
// instruction set has its own; call only what the CPU can run.
GemmKernel gemm_kernel_avx512(DType a_dtype, DType w_dtype);  // x86-64-v4
GemmKernel gemm_kernel_avx2(DType a_dtype, DType w_dtype);    // x86-64-v3
GemmKernel gemm_kernel_generic(DType a_dtype, DType w_dtype);

}  // namespace hymba::cpu
