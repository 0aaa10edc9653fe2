// Which kernel multiplies by a packed matrix, and how it is cut up: pure functions of the shapes,
// with the reasons beside the numbers.
//
// What decides the bits of a result is the order in which its products are added: the regime
// (skinny or tile) and, for the skinny kernels, the number of warps that share the columns. Both
// are the same for every number of rows within a regime. The rest only decides who computes what.
#pragma once

#include <cstdint>

#include "cuda/packed_matrix.h"

namespace hymba::cuda {

// A product of `rows` rows of activations with a packed matrix.
struct GemmShape {
  int64_t rows = 0;
  int64_t packed_rows = 0;  // with their padding, of all blocks
  int64_t cols = 0;
};

enum class GemmVariant {
  // Skinny kernels (skinny.cuh), named by the tile of a block: rows of activations x rows of the
  // matrix.
  kSkinny16x16,
  kSkinny16x32,
  kSkinny32x32,
  kSkinny64x32,
  // Tile kernels (tile.cuh), likewise.
  kTile64x64,
  kTile128x128,
};

// Up to here reading the weights takes longer than multiplying by them (the two meet at about 270
// rows on an H100), which is what the skinny kernels are for. A row's result depends on the number
// of rows in the step only by which side of this it is on.
inline constexpr int64_t kMaxSkinnyRows = 256;

inline constexpr int kMaxSplitWarps = 8;

// How many warps of a skinny block share the columns, 64 at a time. One warp reads 2 to 4 KB a
// block of columns; with about six blocks each, most of what it reads is under way at once, and a
// matrix of 1600 rows by 3200 (100 tiles of 16 rows) still has 800 warps to ask for it. More than 8
// warps would have too few registers for the widest tile; fewer than 4 make the sums at the end
// slow.
constexpr int split_warps(int64_t cols) {
  constexpr int64_t kBlocksAWarp = 7;
  constexpr int kMinWarps = 4;
  const int64_t blocks = packed_cols(cols) / kBlockCols;
  int warps = 1;
  while (warps < kMaxSplitWarps && warps * 2 <= blocks &&
         (warps < kMinWarps || warps * kBlocksAWarp < blocks))
    warps *= 2;
  return warps;
}

namespace internal {

HYMBA_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr GemmVariant select_skinny(const GemmShape& shape, int64_t num_sms) {
  // Activations are read again by every tile of the matrix: with more of them, wide tiles.
  if (shape.rows > 32) return GemmVariant::kSkinny64x32;
  if (shape.rows > 16) return GemmVariant::kSkinny32x32;
  // 32 rows a tile make half as many blocks, which then all run at once: three blocks fit on a
  // multiprocessor. But matrices with few rows need narrow tiles to reach all multiprocessors.
  const bool wide = 2 * ceil_div(shape.packed_rows, 32) >= 3 * num_sms;
  return wide ? GemmVariant::kSkinny16x32 : GemmVariant::kSkinny16x16;
}

constexpr GemmVariant select_tile(const GemmShape& shape, int64_t num_sms) {
  const auto tiles_per_sm = [&](int64_t edge) {
    const int64_t tiles = ceil_div(shape.rows, edge) * ceil_div(shape.packed_rows, edge);
    return ceil_div(tiles, num_sms);
  };
  // Time of the busiest multiprocessor; 100 is a 128x128 tile beside a second one. Alone it gets
  // about 0.7 of the tensor cores. A 64x64 tile is a quarter of the work, but reads twice the bytes
  // for it from shared memory; alone it waits for its own latencies.
  const int64_t large = tiles_per_sm(128) == 1 ? 140 : 100 * tiles_per_sm(128);
  const int64_t small = tiles_per_sm(64) == 1 ? 50 : 36 * tiles_per_sm(64);
  return large <= small ? GemmVariant::kTile128x128 : GemmVariant::kTile64x64;
}

}  // namespace internal

constexpr GemmVariant select_variant(const GemmShape& shape, int64_t num_sms) {
  return shape.rows <= kMaxSkinnyRows ? internal::select_skinny(shape, num_sms)
                                      : internal::select_tile(shape, num_sms);
}

// --- What that comes to for Hymba-1.5B on an H100 (132 multiprocessors) -------------------------

static_assert(split_warps(1600) == 4 && split_warps(3200) == 8 && split_warps(5504) == 8);
static_assert(split_warps(100) == 2 && split_warps(64) == 1 && split_warps(1) == 1);
// Decode: in_proj, out_proj.
static_assert(select_variant({1, 8960, 1600}, 132) == GemmVariant::kSkinny16x32);
static_assert(select_variant({16, 1600, 3200}, 132) == GemmVariant::kSkinny16x16);
static_assert(select_variant({17, 1600, 3200}, 132) == GemmVariant::kSkinny32x32);
static_assert(select_variant({256, 8960, 1600}, 132) == GemmVariant::kSkinny64x32);
// Prefill: in_proj always, out_proj when there are rows enough, x_proj never has large tiles.
static_assert(select_variant({512, 8960, 1600}, 132) == GemmVariant::kTile128x128);
static_assert(select_variant({512, 1600, 3200}, 132) == GemmVariant::kTile64x64);
static_assert(select_variant({2048, 1600, 3200}, 132) == GemmVariant::kTile128x128);
static_assert(select_variant({8192, 144, 3200}, 132) == GemmVariant::kTile64x64);

}  // namespace hymba::cuda
