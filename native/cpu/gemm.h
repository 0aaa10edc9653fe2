// Matrix products of the stages: products of blocks on all threads, each handed to what the stage
// makes of it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/thread_pool.h"
#include "cpu/gemm_kernel.h"
#include "ops/ops.h"

namespace hymba::cpu {

// A rectangle of finished sums, in fp32: rows [first_row, first_row + rows) of the activations
// against rows [first_col, first_col + cols) of each block of the weight.
struct GemmTile {
  // A weight is read from memory once for 48 rows (from L2 once for the 6 that meet in registers).
  // 32 rows of the weight are 352 kB for K = 5504 in bf16: they stay in L2 meanwhile.
  static constexpr int64_t kMaxRows = 48;
  static constexpr int64_t kMaxCols = 32;

  int64_t first_row;
  int64_t first_col;
  int64_t rows;
  int64_t cols;
  const float (*sums)[kMaxRows * kMaxCols];  // [blocks of the weight, kMaxRows, kMaxCols]

  const float* row(int64_t i, int block = 0) const { return sums[block] + i * kMaxCols; }
};

// How a product is cut into tasks.
struct GemmPlan {
  int64_t rows_per_task;
  int64_t cols_per_task;
  int64_t num_row_tasks;
  int64_t num_col_tasks;
};
GemmPlan plan_gemm(int64_t rows, int64_t cols, int64_t depth, int num_threads);

// The fastest kernel that this CPU can run.
GemmKernel find_gemm_kernel(DType a_dtype, DType w_dtype);

// Calls finish(GemmTile) for rectangles that cover a · weightᵀ, on any thread and in any order. `a`
// is [rows, weight.cols], act.
template <typename Finish>
void gemm(const TensorView& a, const Matrix& weight, ThreadPool& pool, const Finish& finish) {
  if (a.rows() == 0) return;
  const int64_t depth = weight.cols;
  const GemmKernel kernel = find_gemm_kernel(a.dtype(), weight.dtype);
  const GemmPlan plan =
      plan_gemm(a.rows(), weight.rows, depth * weight.num_blocks, pool.num_threads());
  const size_t a_row_bytes = a.row_stride() * dtype_bytes(a.dtype());
  const size_t w_row_bytes = depth * dtype_bytes(weight.dtype);

  // Neighbouring tasks share weights rather than activations: there are more of the former.
  pool.parallel_for(plan.num_row_tasks * plan.num_col_tasks, [&](int64_t task) {
    const int64_t first_row = task % plan.num_row_tasks * plan.rows_per_task;
    const int64_t first_col = task / plan.num_row_tasks * plan.cols_per_task;
    const int64_t end_col = std::min(weight.rows, first_col + plan.cols_per_task);
    alignas(64) float sums[Matrix::kMaxBlocks][GemmTile::kMaxRows * GemmTile::kMaxCols];
    GemmTile tile{.first_row = first_row,
                  .first_col = 0,
                  .rows = std::min(a.rows() - first_row, plan.rows_per_task),
                  .cols = 0,
                  .sums = sums};
    for (int64_t col = first_col; col < end_col; col += GemmTile::kMaxCols) {
      tile.first_col = col;
      tile.cols = std::min(end_col - col, GemmTile::kMaxCols);
      for (int block = 0; block < weight.num_blocks; ++block)
        kernel({.a = static_cast<const char*>(a.raw()) + first_row * a_row_bytes,
                .w = static_cast<const char*>(weight.blocks[block]) + col * w_row_bytes,
                .out = sums[block],
                .a_stride = a.row_stride(),
                .out_stride = GemmTile::kMaxCols,
                .rows = tile.rows,
                .cols = tile.cols,
                .depth = depth});
      finish(tile);
    }
  });
}

}  // namespace hymba::cpu
