// Computes  delta = softplus(dt · weightᵀ + bias).
// Shapes    dt [T, R], weight [E, R], bias [E] fp32, delta [T, E]; rows of dt and delta may be
//           strided: dt is part of a wider row, whose other columns stay out.
// Kernels   skinny.cuh, tile.cuh, simt.cuh; select.h chooses.
// Numerics  bias and softplus in fp32; one rounding to delta's dtype.

#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

template <typename Act>
void dt_proj_as(const DtProjArgs& args, const LaunchContext& context) {
  gemm("dt_proj", args.dt, args.weight,
       SoftplusEpilogue<Act>{PairRows<Act>(args.delta), args.bias.data<float>()}, context);
}

}  // namespace

void dt_proj(const DtProjArgs& args, const LaunchContext& context) {
  if (args.delta.dtype() == DType::kF32)
    dt_proj_as<float>(args, context);
  else
    dt_proj_as<BFloat16>(args, context);
}

}  // namespace hymba::cuda
