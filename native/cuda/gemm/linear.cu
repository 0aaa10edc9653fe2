// Computes  out = in · weightᵀ (+ bias), or out += in · weightᵀ (+ bias).
// Shapes    in [T, K], weight [N, K], bias [N] fp32, out [T, N]; rows of in and out may be strided.
// Kernels   skinny.cuh, tile.cuh, simt.cuh; select.h chooses.
// Numerics  bias and the former out are added in fp32; one rounding to out's dtype.

#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {

void linear(const LinearArgs& args, const LaunchContext& context) {
  const float* bias = args.bias.empty() ? nullptr : args.bias.data<float>();
  if (args.out.dtype() == DType::kF32)
    gemm("linear", args.in, args.weight,
         StoreEpilogue<float>{PairRows<float>(args.out), bias, args.accumulate}, context);
  else
    gemm("linear", args.in, args.weight,
         StoreEpilogue<BFloat16>{PairRows<BFloat16>(args.out), bias, false}, context);
}

}  // namespace hymba::cuda
