// Computes  the norm of rms_norm or fuse_heads, and linear or gated_linear of it, in one kernel.
// Kernels   hopper/few_rows.cuh, which works out its activations itself (hopper/row_inputs.cuh).
// Numerics  The bits of the two stages.

#include <type_traits>
#include <variant>

#include "cuda/aligned.h"
#include "cuda/gemm/gemm.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {

#ifdef HYMBA_WITH_SM90
namespace {

// What a kernel reads by 16 bytes, and of which dtype.

bool fits_norm(const RmsNormArgs& args) {
  return args.in.dtype() == DType::kF32 && is_aligned(args.in) && is_aligned(args.weight);
}
bool fits_norm(const FuseHeadsArgs& args) {
  return is_aligned(args.attention) && is_aligned(args.mamba) &&
         is_aligned(args.attention_weight) && is_aligned(args.mamba_weight);
}

hopper::RmsNormRows rows_of(const RmsNormArgs& args) { return hopper::RmsNormRows(args); }
hopper::FusedHeadsRows rows_of(const FuseHeadsArgs& args) { return hopper::FusedHeadsRows(args); }

template <typename Norm, typename Product, typename Epilogue>
bool run(const char* stage, const Norm& norm, const Product& product, const Epilogue& epilogue,
         const LaunchContext& context) {
  const auto rows = rows_of(norm);
  if constexpr (hopper::kHasKernels<std::decay_t<decltype(rows)>, Epilogue>) {
    const PackedOperands operands(product.in, product.weight);
    const GemmShape shape = shape_of(operands);
    if (!hopper::normalises_rows(shape, Epilogue::kPaired)) return false;
    hopper::hopper_gemm(stage, operands, shape, rows, epilogue, context);
    return true;
  }
  return false;
}

template <typename Norm>
bool run(const Norm& norm, const LinearArgs& args, const LaunchContext& context) {
  const auto with = [&](auto type) {
    return run("linear", norm, args, linear_epilogue<decltype(type)>(args), context);
  };
  return args.out.dtype() == DType::kF32 ? with(float{}) : with(BFloat16{});
}

template <typename Norm>
bool run(const Norm& norm, const GatedLinearArgs& args, const LaunchContext& context) {
  const PairRows<BFloat16> out(args.out);
  return args.activation == MlpActivation::kSilu
             ? run("gated_linear", norm, args, GatedSiluEpilogue<BFloat16>{out}, context)
             : run("gated_linear", norm, args, Relu2Epilogue<BFloat16>{out}, context);
}

}  // namespace

bool normed_product(const NormedProductArgs& args, const LaunchContext& context) {
  if (!context.device->takes_sm90_kernels) return false;
  return std::visit(
      [&](const auto& norm, const auto& product) {
        return product.weight.packed && product.in.dtype() == DType::kBF16 &&
               product.in.rows() > 0 && fits_norm(norm) && run(norm, product, context);
      },
      args.norm, args.product);
}
#else
bool normed_product(const NormedProductArgs&, const LaunchContext&) { return false; }
#endif

}  // namespace hymba::cuda
