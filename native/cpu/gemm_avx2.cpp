// The matrix kernel for x86-64-v3; compiled with its flags.

#if defined(__x86_64__)

#include "cpu/gemm_kernel_impl.h"

#if !defined(__AVX2__)
#error "compile this file with -march=x86-64-v3"
#endif

namespace hymba::cpu {

GemmKernel gemm_kernel_avx2(DType a_dtype, DType w_dtype) { return kernel_for(a_dtype, w_dtype); }

}  // namespace hymba::cpu

#endif
