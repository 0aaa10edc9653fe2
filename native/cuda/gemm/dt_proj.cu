// Computes  delta = softplus(dt · weightᵀ + bias).
// Shapes    dt [T, R], weight [E, R], bias [E] fp32, delta [T, E]; rows of dt and delta may be
//           strided: dt is part of a wider row, whose other columns stay out.
// Kernels   skinny.cuh, tile.cuh, simt.cuh; select.h chooses.
// Numerics  bias and softplus in fp32; one rounding to delta's dtype.

#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {

void dt_proj(const DtProjArgs& args, const LaunchContext& context) {
  gemm<SoftplusEpilogue>("dt_proj", args.dt, args.weight, args.delta, context,
                         args.bias.data<float>());
}

}  // namespace hymba::cuda
