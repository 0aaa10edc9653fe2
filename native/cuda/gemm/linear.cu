// Computes  out = in · weightᵀ (+ bias), or out += in · weightᵀ (+ bias).
// Shapes    in [T, K], weight [N, K], bias [N] fp32, out [T, N]; rows of in and out may be strided.
// Kernels   skinny.cuh, tile.cuh, simt.cuh; select.h chooses.
// Numerics  bias and the former out are added in fp32; one rounding to out's dtype.

#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {

void linear(const LinearArgs& args, const LaunchContext& context) {
  // bf16 activations may also give fp32: logits, and what is added to the residual stream.
  if (args.in.dtype() == DType::kBF16 && args.out.dtype() == DType::kF32)
    packed_gemm("linear", args.in, args.weight, linear_epilogue<float>(args), context);
  else
    gemm<StoreEpilogue>("linear", args.in, args.weight, args.out, context, bias_of(args),
                        args.accumulate);
}

}  // namespace hymba::cuda
