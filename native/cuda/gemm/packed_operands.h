// The factors of a product of bf16 activations with a packed matrix, as the kernels take them.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/tensor_view.h"
#include "cuda/packed_matrix.h"
#include "ops/ops.h"

namespace hymba::cuda {

struct PackedOperands {
  const BFloat16* in;  // [rows, cols]; rows start on multiples of 16 bytes
  int64_t in_stride;
  const BFloat16* weight;  // in blocks of 8 rows by 64 columns
  int rows;
  int cols;
  int groups;  // of 8 rows of the matrix, padding included: even
  int blocks;  // of 64 columns, padding included

  PackedOperands(const TensorView& activations, const Matrix& matrix)
      : in(activations.data<BFloat16>()),
        in_stride(activations.row_stride()),
        weight(static_cast<const BFloat16*>(matrix.blocks[0])),
        rows(static_cast<int>(activations.rows())),
        cols(static_cast<int>(matrix.cols)),
        groups(static_cast<int>(packed_elements(matrix.rows, kBlockCols, matrix.num_blocks) /
                                (kBlockRows * kBlockCols))),
        blocks(static_cast<int>(packed_cols(matrix.cols) / kBlockCols)) {}
};

inline constexpr int kBlockElements = kBlockRows * kBlockCols;

}  // namespace hymba::cuda
