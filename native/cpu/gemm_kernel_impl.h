// The kernel behind gemm_kernel.h, for the instruction set of the file that includes this. Internal
// linkage only: see lanes.h.
#pragma once

#include "cpu/gemm_kernel.h"
#include "cpu/lanes.h"

namespace hymba::cpu {
namespace {

// kRows · kCols outputs at once, their lanes in registers: an element of `a` meets kCols others for
// one load, one of `w` kRows.
template <int kRows, int kCols, typename A, typename W>
inline void multiply_tile(const A* a, int64_t a_stride, const W* w, int64_t depth, float* out,
                          int64_t out_stride) {
  Lanes sums[kRows][kCols];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kCols; ++j) sums[i][j] = zero_lanes();

  // The rows of `w` that the next tile needs follow these in memory. Fetched at the pace at which
  // these are used up, they come from memory at its full speed, which the hardware's own
  // prefetching, ended by every page and every row, does not reach.
  constexpr int kLineBytes = 64;
  constexpr int kLinesPerStep = kCols * kLanes * sizeof(W) / kLineBytes;
  const char* upcoming = reinterpret_cast<const char*>(w + kCols * depth);

  const int64_t whole = depth / kLanes * kLanes;
  for (int64_t k = 0; k < whole; k += kLanes) {
#pragma GCC unroll 8
    for (int line = 0; line < kLinesPerStep; ++line)
      __builtin_prefetch(upcoming + line * kLineBytes);
    upcoming += kLinesPerStep * kLineBytes;
    Lanes w_lanes[kCols];
#pragma GCC unroll 8
    for (int j = 0; j < kCols; ++j) w_lanes[j] = load(w + j * depth + k);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Lanes a_lanes = load(a + i * a_stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < kCols; ++j) sums[i][j] = multiply_add(a_lanes, w_lanes[j], sums[i][j]);
    }
  }
  if (whole < depth) {
    Lanes w_lanes[kCols];
#pragma GCC unroll 8
    for (int j = 0; j < kCols; ++j) w_lanes[j] = load_part(w + j * depth + whole, depth - whole);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Lanes a_lanes = load_part(a + i * a_stride + whole, depth - whole);
#pragma GCC unroll 8
      for (int j = 0; j < kCols; ++j) sums[i][j] = multiply_add(a_lanes, w_lanes[j], sums[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) sum_lanes(sums[i], out + i * out_stride);
}

// kRows rows of `a` against all rows of `w`, which thereby stream past once.
template <int kRows, typename A, typename W>
void multiply_rows(const GemmBlock& block, int64_t first_row) {
  const A* a = static_cast<const A*>(block.a) + first_row * block.a_stride;
  const W* w = static_cast<const W*>(block.w);
  float* out = block.out + first_row * block.out_stride;
  int64_t j = 0;
  for (; j + kTileCols <= block.cols; j += kTileCols)
    multiply_tile<kRows, kTileCols>(a, block.a_stride, w + j * block.depth, block.depth, out + j,
                                    block.out_stride);
  for (; j < block.cols; ++j)
    multiply_tile<kRows, 1>(a, block.a_stride, w + j * block.depth, block.depth, out + j,
                            block.out_stride);
}

// multiply_rows<num_rows>, for num_rows ≤ kRows.
template <int kRows, typename A, typename W>
void multiply_up_to(const GemmBlock& block, int64_t first_row, int64_t num_rows) {
  if (num_rows == kRows)
    multiply_rows<kRows, A, W>(block, first_row);
  else if constexpr (kRows > 1)
    multiply_up_to<kRows - 1, A, W>(block, first_row, num_rows);
}

template <typename A, typename W>
void multiply_block(const GemmBlock& block) {
  // As many tiles as it takes, all about as high: 8 rows are 4 + 4, not 6 + 2.
  const int64_t num_tiles = (block.rows + kTileRows - 1) / kTileRows;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t first = tile * block.rows / num_tiles;
    multiply_up_to<kTileRows, A, W>(block, first, (tile + 1) * block.rows / num_tiles - first);
  }
}

template <typename A>
GemmKernel kernel_for_weights(DType w_dtype) {
  switch (w_dtype) {
    case DType::kF32:
      return multiply_block<A, float>;
    case DType::kBF16:
      return multiply_block<A, BFloat16>;
    case DType::kF16:
      return multiply_block<A, Float16>;
    default:
      return nullptr;
  }
}

GemmKernel kernel_for(DType a_dtype, DType w_dtype) {
  switch (a_dtype) {
    case DType::kF32:
      return kernel_for_weights<float>(w_dtype);
    case DType::kBF16:
      return kernel_for_weights<BFloat16>(w_dtype);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace hymba::cpu
