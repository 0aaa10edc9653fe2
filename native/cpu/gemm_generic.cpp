// The matrix kernel for CPUs that have none of their own; compiled with the flags of everything
// else.

#if !defined(__x86_64__)

#include "cpu/gemm_kernel_impl.h"

namespace hymba::cpu {

GemmKernel gemm_kernel_generic(DType a_dtype, DType w_dtype) {
  return kernel_for(a_dtype, w_dtype);
}

}  // namespace hymba::cpu

#endif
