// out = epilogue(in · weightᵀ) by whichever kernel fits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/error.h"
#include "cuda/gemm/epilogue.cuh"
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

template <typename Epilogue>
void packed_gemm(const char* stage, const TensorView& in, const Matrix& weight,
                 const Epilogue& epilogue, const LaunchContext& context) {
  check_aligned_rows(stage, in);
  const PackedOperands operands(in, weight);
  const GemmShape shape{.rows = operands.rows,
                        .packed_rows = static_cast<int64_t>(operands.groups) * kBlockRows,
                        .cols = operands.cols};
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

// bf16 activations take a packed matrix and give bf16 or fp32; fp32 activations take a row-major
// one and give fp32.
template <typename Epilogue>
void gemm(const char* stage, const TensorView& in, const Matrix& weight, const Epilogue& epilogue,
          const LaunchContext& context) {
  if (in.rows() == 0) return;
  if (in.dtype() == DType::kBF16 && weight.packed)
    return packed_gemm(stage, in, weight, epilogue, context);
  if constexpr (std::is_same_v<typename Epilogue::Out, float>) {
    if (in.dtype() == DType::kF32 && !weight.packed && weight.dtype == DType::kF32)
      return simt_gemm<float>(stage, in, weight, epilogue, context);
    if (in.dtype() == DType::kF32 && !weight.packed && weight.dtype == DType::kBF16)
      return simt_gemm<BFloat16>(stage, in, weight, epilogue, context);
  }
  fail(ErrorCode::kInvalidArgument, stage, ": ", dtype_name(in.dtype()), " activations, a ",
       weight.packed ? "packed" : "row-major", " ", dtype_name(weight.dtype),
       " matrix and results in ", sizeof(typename Epilogue::Out) == 4 ? "F32" : "BF16",
       ": bf16 activations need a packed matrix, fp32 ones a row-major matrix and fp32 results");
}

}  // namespace hymba::cuda
