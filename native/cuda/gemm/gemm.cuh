// out = epilogue(in · weightᵀ) by whichever kernel fits.
#pragma once

#include <cstdint>

#include "core/error.h"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/hopper/hopper_gemm.h"
#include "cuda/gemm/packed_operands.h"
#include "cuda/gemm/select.h"
#include "cuda/gemm/simt.cuh"
#include "cuda/gemm/skinny.cuh"
#include "cuda/gemm/tile.cuh"
#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

// Kernels read rows of `in` by 16 bytes, padding included.
inline void check_aligned_rows(const char* stage, const TensorView& in) {
  const auto address = reinterpret_cast<uintptr_t>(in.raw());
  if (address % 16 != 0 || in.row_stride() % 8 != 0)
    fail(ErrorCode::kInvalidArgument, stage, ": rows of the input must start on multiples of 16 ",
         "bytes, but the first is ", address % 16, " beyond one, and rows are ", in.row_stride(),
         " elements of 2 bytes apart");
}

inline void check_dtype(const char* stage, const char* what, DType actual, DType expected) {
  if (actual != expected)
    fail(ErrorCode::kInvalidArgument, stage, ": ", what, " is ", dtype_name(actual),
         ", but the input's dtype needs ", dtype_name(expected));
}

inline GemmShape shape_of(const PackedOperands& operands) {
  return {.rows = operands.rows,
          .packed_rows = static_cast<int64_t>(operands.groups) * kBlockRows,
          .cols = operands.cols};
}

inline const float* bias_of(const LinearArgs& args) {
  return args.bias.empty() ? nullptr : args.bias.data<float>();
}
template <typename T>
StoreEpilogue<T> linear_epilogue(const LinearArgs& args) {
  return {PairRows<T>(args.out), bias_of(args), args.accumulate};
}

// For bf16 activations.
template <typename Epilogue>
void packed_gemm(const char* stage, const TensorView& in, const Matrix& weight,
                 const Epilogue& epilogue, const LaunchContext& context) {
  check_dtype(stage, "the input", in.dtype(), DType::kBF16);
  if (!weight.packed)
    fail(ErrorCode::kInvalidArgument, stage, ": the matrix was imported for fp32 activations");
  if (in.rows() == 0) return;
  check_aligned_rows(stage, in);
  const PackedOperands operands(in, weight);
  const GemmShape shape = shape_of(operands);
#ifdef HYMBA_WITH_SM90
  if constexpr (hopper::kHasKernels<hopper::StoredRows, Epilogue>)
    if (context.device->takes_sm90_kernels && hopper::fits(shape))
      return hopper::hopper_gemm(stage, operands, shape, hopper::StoredRows{}, epilogue, context);
#endif
  switch (select_variant(shape, context.device->num_sms)) {
    case GemmVariant::kSkinny16x16:
      return skinny_gemm<Skinny16x16>(stage, operands, epilogue, context);
    case GemmVariant::kSkinny16x32:
      return skinny_gemm<Skinny16x32>(stage, operands, epilogue, context);
    case GemmVariant::kSkinny32x32:
      return skinny_gemm<Skinny32x32>(stage, operands, epilogue, context);
    case GemmVariant::kSkinny64x32:
      return skinny_gemm<Skinny64x32>(stage, operands, epilogue, context);
    case GemmVariant::kTile64x64:
      return tile_gemm<Tile64x64>(stage, operands, epilogue, context);
    case GemmVariant::kTile128x128:
      return tile_gemm<Tile128x128>(stage, operands, epilogue, context);
  }
}

// For fp32 activations.
template <typename Epilogue>
void row_major_gemm(const char* stage, const TensorView& in, const Matrix& weight,
                    const Epilogue& epilogue, const LaunchContext& context) {
  check_dtype(stage, "the input", in.dtype(), DType::kF32);
  if (weight.packed)
    fail(ErrorCode::kInvalidArgument, stage, ": the matrix was imported for bf16 activations");
  if (in.rows() == 0) return;
  if (weight.dtype == DType::kF32) return simt_gemm<float>(stage, in, weight, epilogue, context);
  check_dtype(stage, "the matrix", weight.dtype, DType::kBF16);
  simt_gemm<BFloat16>(stage, in, weight, epilogue, context);
}

// For both, where results have the dtype of the activations.
template <template <typename> class Epilogue, typename... Args>
void gemm(const char* stage, const TensorView& in, const Matrix& weight, const TensorView& out,
          const LaunchContext& context, Args... args) {
  check_dtype(stage, "the output", out.dtype(), in.dtype());
  if (in.dtype() == DType::kF32)
    row_major_gemm(stage, in, weight, Epilogue<float>{PairRows<float>(out), args...}, context);
  else
    packed_gemm(stage, in, weight, Epilogue<BFloat16>{PairRows<BFloat16>(out), args...}, context);
}

}  // namespace hymba::cuda
