// bf16 matrices in shared memory, as pages of K/V and packed weights hold them: panels of 64
// columns, in each a row of 128 bytes, its chunks of 8 elements permuted by the row. The 8 rows
// that ldmatrix reads together lie in different banks.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"

namespace hymba::cuda {

inline constexpr int kPanelElements = 64;  // of a row, 128 bytes
inline constexpr int kChunkElements = 8;   // 16 bytes

// Offset of a chunk of 8 elements in shared memory, in panels of kPanelRows rows.
template <int kPanelRows>
__host__ __device__ __forceinline__ constexpr int shared_chunk(int row, int chunk) {
  return chunk / 8 * (kPanelRows * kPanelElements) + row * kPanelElements +
         ((chunk % 8) ^ (row % 8)) * kChunkElements;
}

// Rows that a lane addresses for load_matrix_x4: row `row` of the panels, chunks `low_chunk` (0 or
// 1)
// + 2·step. The lowest bit of a chunk is permuted apart from the others, so that a step is one xor.
template <int kPanelRows>
class MatrixRows {
 public:
  __device__ __forceinline__ MatrixRows(const BFloat16* panels, int row, int low_chunk)
      : row_(panels + row * kPanelElements), swizzle_((low_chunk ^ (row % 8)) * kChunkElements) {}

  // `rows_below`: a multiple of 8.
  __device__ __forceinline__ const BFloat16* at(int rows_below, int step) const {
    return row_ + step / 4 * (kPanelRows * kPanelElements) + rows_below * kPanelElements +
           (swizzle_ ^ (step % 4 * 2 * kChunkElements));
  }

 private:
  const BFloat16* row_;
  int swizzle_;
};

}  // namespace hymba::cuda
