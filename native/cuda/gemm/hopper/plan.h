// How a product is cut up for Hopper's kernels: pure functions of the shapes, with the reasons
// beside the numbers.
//
// What decides the bits of a result is whether its columns are split, which depends on the matrix
// alone up to kMaxSplitRows rows of activations. The rest only decides who computes what: the
// matrix instructions of both kernels add the same 16 products in the same way (measured: not one
// bit differs), and both go through the columns in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/gemm/select.h"
#include "cuda/packed_matrix.h"

namespace hymba::cuda::hopper {

// The columns of a matrix with few rows are cut into so many parts, one for each block of a
// cluster. A part is added up in order, then the sums as a tree: ((0 + 1) + (2 + 3)) + ((4 + 5) +
// (6 + 7)).
inline constexpr int kSplit = 8;
// Rows of activations up to which they are. Beyond, tiles of the activations give every
// multiprocessor something to do.
inline constexpr int64_t kMaxSplitRows = 256;

// Rows of activations that the few-rows kernel takes. Beyond, its warps read the weights from
// shared memory more often than a warpgroup's instructions do. It keeps all columns of a block's
// rows in shared memory, which must leave room for weights.
inline constexpr int kMaxFewRows = 8;
inline constexpr int64_t kMaxFewRowsBytes = 48 * 1024;
// What it normalises itself: every block works out all rows, whose pieces its warps hold in
// registers.
inline constexpr int kPieceCols = 256;
inline constexpr int kMaxNormedPieces = 56;  // of all rows together
inline constexpr int64_t kMaxNormedCols = 4096;

// Groups of 8 rows of the matrix that a block takes at a time, at most.
inline constexpr int kSplitGroups = 13;
inline constexpr int kNarrowGroups = 12;
inline constexpr int kWideGroups = 32;

using internal::ceil_div;

// What Hopper's kernels are for. Bulk copies take pieces of 16 bytes; and few rows of the matrix,
// or few columns, give their large tiles too little to do.
constexpr bool fits(const GemmShape& shape) {
  constexpr int64_t kMinGroups = 64;
  constexpr int64_t kMinCols = 256;
  return shape.cols % 8 == 0 && shape.cols >= kMinCols &&
         shape.packed_rows / kBlockRows >= kMinGroups;
}

// Whether the columns are split: a matrix of fewer rows has not enough groups for every
// multiprocessor to copy its weights in large pieces, and columns enough to share.
constexpr bool splits_columns(const GemmShape& shape, bool paired) {
  constexpr int64_t kGroupsForAll = 400;
  constexpr int64_t kMinBlocks = 4 * kSplit;
  return !paired && shape.rows <= kMaxSplitRows && shape.packed_rows / kBlockRows < kGroupsForAll &&
         packed_cols(shape.cols) / kBlockCols >= kMinBlocks;
}

// Whether the few-rows kernel does it.
constexpr bool takes_few_rows(const GemmShape& shape, bool paired) {
  const int64_t block_cols = ceil_div(shape.cols, splits_columns(shape, paired) ? kSplit : 1);
  return shape.rows <= kMaxFewRows &&
         shape.rows * block_cols * int64_t{sizeof(BFloat16)} <= kMaxFewRowsBytes;
}
HYMBA_HD constexpr int num_pieces(int64_t cols) {
  return static_cast<int>((cols + kPieceCols - 1) / kPieceCols);
}
// Whether it normalises its rows itself.
constexpr bool normalises_rows(const GemmShape& shape, bool paired) {
  return fits(shape) && takes_few_rows(shape, paired) && shape.cols <= kMaxNormedCols &&
         shape.rows * num_pieces(shape.cols) <= kMaxNormedPieces;
}

struct Tiling {
  int groups = 0;          // of the matrix, that a tile has at most
  int tiles = 0;           // of the matrix
  int row_tiles = 1;       // of the activations
  int row_warpgroups = 0;  // 64 rows each, of a row tile; 0: the few-rows kernel
  int split = 1;           // blocks that share the columns

  // Blocks, or clusters, that the tiles are dealt out to: one each where columns are split, else as
  // many as there is room for.
  constexpr int workers(int num_sms) const {
    const int items = tiles * row_tiles;
    return split > 1 ? items : std::min(items, num_sms);
  }
};

// `paired` matrices are tiled by units of two groups.
constexpr Tiling plan_tiling(const GemmShape& shape, bool paired, int num_sms) {
  const int64_t groups = shape.packed_rows / kBlockRows;
  const int64_t granule = paired ? 2 : 1;
  const int64_t granules = groups / granule;
  const bool is_split = splits_columns(shape, paired);
  const bool few_rows = takes_few_rows(shape, paired);
  Tiling plan;
  plan.row_warpgroups = few_rows ? 0 : shape.rows <= 64 ? 1 : 2;
  if (!few_rows) plan.row_tiles = static_cast<int>(ceil_div(shape.rows, 64 * plan.row_warpgroups));
  if (is_split) plan.split = kSplit;

  const int64_t workers = num_sms / plan.split;
  if (is_split)
    plan.groups = kSplitGroups;
  else if (plan.row_tiles > 1 || ceil_div(granules, workers) * granule > kNarrowGroups)
    plan.groups = kWideGroups;
  else
    plan.groups = kNarrowGroups;

  // With one tile of rows, tiles of equal size for everyone.
  const int64_t fewest = ceil_div(granules, plan.groups / granule);
  plan.tiles = static_cast<int>(
      plan.row_tiles > 1 ? fewest : std::min(granules, ceil_div(fewest, workers) * workers));
  return plan;
}

// First group of a tile; that of tile `tiles` is the end.
HYMBA_HD constexpr int first_group(int tile, int tiles, int groups, bool paired) {
  const int granule = paired ? 2 : 1;
  return static_cast<int>(static_cast<uint32_t>(groups / granule) * tile / tiles) * granule;
}

// First block of columns of a part; that of part `parts` is the end.
HYMBA_HD constexpr int first_block(int part, int parts, int blocks) {
  return blocks * part / parts;
}

// --- What that comes to for Hymba-1.5B on an H100 (132 multiprocessors) -------------------------

static_assert(!splits_columns({1, 8960, 1600}, false) && !splits_columns({1, 32016, 1600}, false));
static_assert(fits({1, 8960, 1600}) && !fits({1, 144, 3200}) && !fits({1, 3200, 100}));
static_assert(splits_columns({256, 1600, 3200}, false) && splits_columns({1, 1600, 5504}, false));
static_assert(!splits_columns({512, 1600, 3200}, false));
static_assert(plan_tiling({1, 8960, 1600}, false, 132).tiles == 132);
static_assert(plan_tiling({1, 8960, 1600}, false, 132).groups == kNarrowGroups);
static_assert(plan_tiling({64, 11008, 1600}, true, 132).row_warpgroups == 1);
static_assert(plan_tiling({1, 1600, 3200}, false, 132).tiles == 16);
static_assert(normalises_rows({8, 8960, 1600}, false) && !normalises_rows({9, 8960, 1600}, false));
static_assert(normalises_rows({4, 1600, 3200}, false) && !normalises_rows({5, 1600, 3200}, false));
static_assert(plan_tiling({32, 1600, 5504}, false, 132).row_warpgroups == 1);
static_assert(plan_tiling({8, 4096, 14336}, false, 132).row_warpgroups == 1);
static_assert(plan_tiling({256, 1600, 3200}, false, 132).tiles == 16);
static_assert(plan_tiling({256, 1600, 3200}, false, 132).row_tiles == 2);
static_assert(plan_tiling({1, 32016, 1600}, false, 132).tiles == 132);
static_assert(plan_tiling({128, 32016, 1600}, false, 132).groups == kWideGroups);
static_assert(plan_tiling({2048, 8960, 1600}, false, 132).tiles == 35);

}  // namespace hymba::cuda::hopper
