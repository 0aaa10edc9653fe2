// Computes  out = epilogue(in · weightᵀ) for many rows of activations: the prefill regime, bound by
//           matrix instructions. Runs on any part from sm_80 on.
// Shapes    in [T, K] bf16, rows may be strided; weight packed (cuda/packed_matrix.h).
// Mapping   A block computes a tile of kRows rows of activations by kCols rows of the matrix; each
//           warp holds a part of it in registers. Blocks are numbered so that those which run at
//           the same time form a near square of tiles: their rows meet in the L2.
//           64 columns of both factors make a stage; kStages - 1 of them are under way while one is
//           multiplied. The weights of the first are asked for while the predecessor still runs.
// Shared    Of each stage: [kRows][64] activations, swizzled like the matrix (chunk ^ row % 8);
//           [kCols / 8][8][64] weights, as they are.
// Numerics  Sums in fp32, over the columns in order. A row's result does not depend on T.
// Limits    Rows of `in` 16-byte aligned.
// Cost      2·T·N·K flops. A stage of 128x128 takes 256 clocks of shared memory to fill and 768 to
//           read, against about 760 of mma.sync on an H100; two blocks overlap.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/runtime/launch.h"

namespace hymba::cuda {

template <int kRows_, int kCols_, int kWarpRows_, int kWarpCols_, int kBlocksAnSm_>
struct TileConfig {
  static constexpr int kRows = kRows_;
  static constexpr int kCols = kCols_;
  static constexpr int kWarpRows = kWarpRows_;
  static constexpr int kWarpCols = kWarpCols_;
  static constexpr int kBlocksAnSm = kBlocksAnSm_;
  static constexpr int kWarpsAcross = kCols / kWarpCols;
  static constexpr int kThreads = kRows / kWarpRows * kWarpsAcross * kWarp;
  static constexpr int kStages = 3;
  static constexpr int kInElements = kRows * kBlockCols;
  static constexpr int kStageElements = (kRows + kCols) * kBlockCols;
  static constexpr int kSharedBytes = kStages * kStageElements * int{sizeof(BFloat16)};
  static_assert(kRows % kWarpRows == 0 && kCols % kWarpCols == 0);
  static_assert(kWarpRows % 16 == 0 && kWarpCols % 16 == 0);
  // Every thread copies whole chunks, and its rows are the same modulo 8.
  static_assert(kInElements % (8 * kThreads) == 0 && kThreads % 64 == 0);
  static_assert(kCols * kBlockCols % (8 * kThreads) == 0);
  // The smallest limit of a block among the parts that we build for, sm_89's.
  static_assert(kSharedBytes <= 99 * 1024);
};
using Tile128x128 = TileConfig<128, 128, 64, 32, 2>;
using Tile64x64 = TileConfig<64, 64, 32, 32, 4>;

// Copies a block's part of both factors into a stage. 16 bytes a thread and step, a row of 64
// columns for 8 neighbouring threads.
template <typename Config>
class TileLoader {
 public:
  __device__ __forceinline__ TileLoader(const PackedOperands& operands, int first_row,
                                        int first_group)
      : rows_left_(operands.rows - first_row - static_cast<int>(threadIdx.x) / 8),
        cols_left_(operands.cols - static_cast<int>(threadIdx.x) % 8 * 8),
        in_(operands.in + (first_row + static_cast<int>(threadIdx.x) / 8) * operands.in_stride +
            threadIdx.x % 8 * 8),
        in_stride_(operands.in_stride),
        groups_left_(operands.groups - first_group),
        weight_(operands.weight + static_cast<int64_t>(first_group) * kBlockElements +
                threadIdx.x * 8),
        weight_stride_(static_cast<int64_t>(operands.groups) * kBlockElements) {}

  // Rows and columns beyond the last become zeroes.
  __device__ __forceinline__ void load_in(int block, BFloat16* stage) const {
    constexpr int kRowsAStep = Config::kThreads / 8;
    BFloat16* to =
        stage + threadIdx.x / 8 * kBlockCols + (threadIdx.x % 8 ^ threadIdx.x / 8 % 8) * 8;
    const int valid_cols = min(max(cols_left_ - block * kBlockCols, 0), 8);
#pragma unroll
    for (int row = 0; row < Config::kRows; row += kRowsAStep)
      copy_16_async(to + row * kBlockCols, in_ + row * in_stride_ + block * kBlockCols,
                    row < rows_left_ ? valid_cols * int{sizeof(BFloat16)} : 0);
  }

  __device__ __forceinline__ void load_weight(int block, BFloat16* stage) const {
    BFloat16* to = stage + Config::kInElements + threadIdx.x * 8;
    const BFloat16* from = weight_ + block * weight_stride_;
#pragma unroll
    for (int i = 0; i < Config::kCols * kBlockCols; i += Config::kThreads * 8) {
      const int group = (i + static_cast<int>(threadIdx.x) * 8) / kBlockElements;
      copy_16_async(to + i, from + i, group < groups_left_ ? 16 : 0);
    }
  }

 private:
  int rows_left_;
  int cols_left_;
  const BFloat16* in_;
  int64_t in_stride_;
  int groups_left_;
  const BFloat16* weight_;
  int64_t weight_stride_;
};

// The tile of block `index`: strips of kStrip tiles of activations, in a strip the tiles of the
// matrix one after the other.
struct TileIndex {
  int row_tile;
  int col_tile;

  __device__ __forceinline__ TileIndex(int index, int row_tiles, int col_tiles) {
    constexpr int kStrip = 16;
    const int strip = index / (kStrip * col_tiles);
    const int height = min(kStrip, row_tiles - strip * kStrip);
    const int in_strip = index - strip * kStrip * col_tiles;
    row_tile = strip * kStrip + in_strip % height;
    col_tile = in_strip / height;
  }
};

// A warp's sums, [16 rows][8 columns] an instruction.
template <typename Config>
struct WarpTile {
  static constexpr int kRowTiles = Config::kWarpRows / 16;
  static constexpr int kGroups = Config::kWarpCols / 8;
  float sums[kRowTiles][kGroups][4] = {};

  // `in` and `weight` are where lane l's rows begin for load_matrix_x4, without the swizzle:
  // matrices 0 to 3 are, of the activations, rows 0-7 and 8-15 of chunk 0, then of chunk 1; of the
  // weights, chunks 0 and 1 of one group, then of the next. `swizzle` has the chunk's lowest bit.
  __device__ __forceinline__ void multiply(const BFloat16* in, int in_swizzle,
                                           const BFloat16* weight, int weight_swizzle) {
#pragma unroll
    for (int step = 0; step < kBlockCols / 16; ++step) {
      // Chunk 2·step + i, permuted by the row: the lowest bit and the rest do not mix.
      const int in_chunk = in_swizzle ^ (2 * step * 8);
      const int weight_chunk = weight_swizzle ^ (2 * step * 8);
      uint32_t b[kGroups / 2][4];
#pragma unroll
      for (int pair = 0; pair < kGroups / 2; ++pair)
        load_matrix_x4(b[pair], weight + pair * 2 * kBlockElements + weight_chunk);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        uint32_t a[4];
        load_matrix_x4(a, in + tile * 16 * kBlockCols + in_chunk);
#pragma unroll
        for (int pair = 0; pair < kGroups / 2; ++pair) {
          mma_16x8x16(sums[tile][2 * pair], a, {b[pair][0], b[pair][1]});
          mma_16x8x16(sums[tile][2 * pair + 1], a, {b[pair][2], b[pair][3]});
        }
      }
    }
  }

  template <typename Epilogue>
  __device__ __forceinline__ void finish(const Epilogue& epilogue, int first_row, int first_unit,
                                         int lane, int num_rows) const {
    constexpr int kUnits = kGroups / 2;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const int row = first_row + tile * 16 + lane / 4;
      typename UnitColumns<Epilogue>::Addends addends[2][kUnits];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit)
          if (row + half * 8 < num_rows)
            addends[half][unit] = UnitColumns<Epilogue>(first_unit + unit, lane % 4)
                                      .addends(epilogue, row + half * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          const float(&first)[4] = sums[tile][2 * unit];
          const float(&second)[4] = sums[tile][2 * unit + 1];
          if (row + half * 8 < num_rows)
            UnitColumns<Epilogue>(first_unit + unit, lane % 4)
                .finish(epilogue, row + half * 8, {first[2 * half], first[2 * half + 1]},
                        {second[2 * half], second[2 * half + 1]}, addends[half][unit]);
        }
    }
  }
};

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksAnSm)
    tile_gemm_kernel(PackedOperands operands, int row_tiles, int col_tiles, Epilogue epilogue) {
  constexpr int kStages = Config::kStages;
  allow_successor();

  BFloat16* shared = dynamic_shared<BFloat16>();
  const TileIndex index(blockIdx.x, row_tiles, col_tiles);
  const int first_row = index.row_tile * Config::kRows;
  const int first_group = index.col_tile * (Config::kCols / kBlockRows);
  const TileLoader<Config> loader(operands, first_row, first_group);

#pragma unroll
  for (int block = 0; block < kStages - 1; ++block)
    if (block < operands.blocks) loader.load_weight(block, shared + block * Config::kStageElements);
  wait_for_predecessor();
#pragma unroll
  for (int block = 0; block < kStages - 1; ++block) {
    if (block < operands.blocks) loader.load_in(block, shared + block * Config::kStageElements);
    commit_copies();
  }

  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int warp_row = warp / Config::kWarpsAcross * Config::kWarpRows;
  const int warp_col = warp % Config::kWarpsAcross * Config::kWarpCols;
  const int in_offset = (warp_row + lane % 16) * kBlockCols;
  const int in_swizzle = (lane / 16 ^ lane % 8) * 8;
  const int weight_offset =
      Config::kInElements + (warp_col + lane / 16 * 8 + lane % 8) * kBlockCols;
  const int weight_swizzle = (lane / 8 % 2 ^ lane % 8) * 8;

  WarpTile<Config> tile;
  int stage = 0;
  int next_stage = kStages - 1;
  for (int block = 0; block < operands.blocks; ++block) {
    // This stage has arrived, for all threads, and all are done with the one that is filled next.
    wait_copies<kStages - 2>();
    __syncthreads();
    if (block + kStages - 1 < operands.blocks) {
      BFloat16* next = shared + next_stage * Config::kStageElements;
      loader.load_weight(block + kStages - 1, next);
      loader.load_in(block + kStages - 1, next);
    }
    commit_copies();
    const BFloat16* now = shared + stage * Config::kStageElements;
    tile.multiply(now + in_offset, in_swizzle, now + weight_offset, weight_swizzle);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
  }

  tile.finish(epilogue, first_row + warp_row, (first_group * kBlockRows + warp_col) / 16, lane,
              operands.rows);
}

template <typename Config, typename Epilogue>
void tile_gemm(const char* stage, const PackedOperands& operands, const Epilogue& epilogue,
               const LaunchContext& context) {
  const int row_tiles = ceil_div(operands.rows, Config::kRows);
  const int col_tiles = ceil_div(operands.groups, Config::kCols / kBlockRows);
  launch(stage, context, tile_gemm_kernel<Config, Epilogue>, dim3(row_tiles * col_tiles),
         dim3(Config::kThreads), Config::kSharedBytes, operands, row_tiles, col_tiles, epilogue);
}

}  // namespace hymba::cuda
