// What the x_proj stage needs besides its Args.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/gemm/select.h"
#include "cuda/packed_matrix.h"
#include "ops/ops.h"

namespace hymba::cuda {

// The product before its norms, or parts of it, in fp32, for the largest step.
size_t x_proj_scratch_bytes(const StageLimits& limits);

// Whether it is cut by columns (x_proj_split.cuh). With inner norms all decode steps of a bf16
// model are, so that a token's bits depend on the regime alone.
inline constexpr int64_t kMaxSplitRows = 256;
inline bool splits_x_proj(const XProjArgs& args) {
  return args.u.rows() <= kMaxSkinnyRows && args.weight.packed && !args.dt_norm.empty() &&
         args.out.dtype() == DType::kBF16 && packed_rows(args.weight.rows) <= kMaxSplitRows;
}

// Blocks of 64 columns that a block of threads takes then.
inline constexpr int kSplitPanels = 2;

// Floats of scratch that it takes then, for a weight of [rows, cols].
constexpr int64_t contribution_floats(int64_t tokens, int64_t rows, int64_t cols) {
  const int64_t panels = packed_cols(cols) / kBlockCols;
  return tokens * packed_rows(rows) * ((panels + kSplitPanels - 1) / kSplitPanels);
}

}  // namespace hymba::cuda
