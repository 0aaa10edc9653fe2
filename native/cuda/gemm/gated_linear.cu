// Computes  out = silu(in · gateᵀ) ⊙ (in · upᵀ), or relu(in · upᵀ)² where there is no gate.
// Shapes    in [T, C], gate and up [F, C], out [T, F]; rows of in and out may be strided.
// Kernels   skinny.cuh, tile.cuh, simt.cuh; select.h chooses. Gate and up are interleaved by groups
//           of 8 rows (packed_matrix.h), so a thread has both factors.
// Numerics  activation and product in fp32; one rounding to out's dtype.

#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {

void gated_linear(const GatedLinearArgs& args, const LaunchContext& context) {
  switch (args.activation) {
    case MlpActivation::kSilu:
      return gemm<GatedSiluEpilogue>("gated_linear", args.in, args.weight, args.out, context);
    case MlpActivation::kRelu2:
      return gemm<Relu2Epilogue>("gated_linear", args.in, args.weight, args.out, context);
  }
}

}  // namespace hymba::cuda
