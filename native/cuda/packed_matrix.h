// How the CUDA backend stores a bf16 matrix [N, K], set once at load.
//
// The matrix is padded with zeroes to a multiple of 16 rows and 64 columns and cut into blocks of 8
// rows by 64 columns, 1 KB each: [K/64][N/8][8][64]. In a block a row is 128 bytes, and its eight
// 16-byte chunks are permuted by the row (chunk ^ row): the 128-byte swizzle. So any 8·i rows of a
// 64-column step are one contiguous piece that can be copied to shared memory as it is and read
// there by ldmatrix or wgmma without bank conflicts; and a warp that reads a block takes 1 KB in
// one go.
//
// Two stacked blocks (gate and up) are interleaved by groups of 8 rows: 8 of gate, 8 of up. An
// accumulator tile of 16 columns then holds both factors of a product in the same thread.
//
// A matrix of a float32 model is not packed: it stays row-major in the dtype of the checkpoint.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hymba::cuda {

inline constexpr int kBlockRows = 8;
inline constexpr int kBlockCols = 64;
inline constexpr int kRowPadding = 16;

HYMBA_HD constexpr int64_t packed_rows(int64_t rows) {
  return (rows + kRowPadding - 1) / kRowPadding * kRowPadding;
}
HYMBA_HD constexpr int64_t packed_cols(int64_t cols) {
  return (cols + kBlockCols - 1) / kBlockCols * kBlockCols;
}

// Elements of `num_blocks` stacked blocks of [rows, cols].
constexpr int64_t packed_elements(int64_t rows, int64_t cols, int num_blocks) {
  const int64_t row_groups = (rows + kBlockRows - 1) / kBlockRows;
  return packed_rows(row_groups * kBlockRows * num_blocks) * packed_cols(cols);
}

// The row of the packed matrix that holds row `row` of block `block`.
HYMBA_HD constexpr int64_t packed_row(int64_t row, int block, int num_blocks) {
  return (row / kBlockRows * num_blocks + block) * kBlockRows + row % kBlockRows;
}

// Offset of (row, col) in a packed matrix of `padded_rows` rows, in elements.
HYMBA_HD constexpr int64_t packed_offset(int64_t row, int64_t col, int64_t padded_rows) {
  const int64_t block = col / kBlockCols * (padded_rows / kBlockRows) + row / kBlockRows;
  const int64_t in_row = row % kBlockRows;
  const int64_t chunk = (col % kBlockCols / 8) ^ in_row;
  return block * (kBlockRows * kBlockCols) + in_row * kBlockCols + chunk * 8 + col % 8;
}

}  // namespace hymba::cuda
