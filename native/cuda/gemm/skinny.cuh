// Computes  out = epilogue(in · weightᵀ) for few rows of activations: the decode regime, where time
//           is what reading the weights takes.
// Shapes    in [T, K] bf16, T ≤ 256, rows may be strided; weight packed (cuda/packed_matrix.h).
// Mapping   Grid (tiles of kCols rows of the matrix) x (chunks of kRows rows of activations), the
//           chunks of a tile next to each other, so that all but the first find its weights in the
//           L2. The warps of a block share the columns, in blocks of 64, evenly.
//           A warp takes its weights from global memory to registers, kDepth blocks ahead, the
//           first ones while the predecessor still runs. Lane (g, t) = (lane / 4, lane % 4) loads
//           chunks t and t + 4 (8 elements each) of row g of every 8x64 block: whole sectors, and
//           the fragments of four matrix instructions without a shuffle. An instruction wants four
//           elements of 16 columns from each lane. Which columns these are is free, as long as both
//           factors agree: step s of chunk c takes elements 4s to 4s+3 of the chunks c of the four
//           lanes. Activations are loaded the same way, through the L1, which the blocks of a
//           multiprocessor share.
// Shared    [warps][16][kCols + 8] fp32: the sums of 16 rows, a round for each row tile. Padded, so
//           that the rows which half a warp accesses together lie in different banks.
// Numerics  Each warp adds up its columns in fp32, in order (a last block of fewer than 64 first),
//           then the warps' sums are added in order. That depends neither on T, nor on the tile
//           that a row or column lies in.
// Limits    Rows of `in` 16-byte aligned, and all of them within 2^31 elements.
// Cost      N·K·2 bytes of weights once from memory; for every tile T·K·2 bytes of activations from
//           the L1 and L2. Bound by memory to T ≈ 64, by L2 and matrix instructions above.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/error.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/gemm/select.h"
#include "cuda/runtime/launch.h"

namespace hymba::cuda {

template <int kRows_, int kCols_, int kDepth_, bool kAhead_>
struct SkinnyConfig {
  static constexpr int kRows = kRows_;
  static constexpr int kCols = kCols_;
  static constexpr int kRowTiles = kRows / 16;
  static constexpr int kGroups = kCols / kBlockRows;
  static constexpr int kUnits = kCols / 16;
  static_assert(kRows % 16 == 0 && kCols % 16 == 0);
  // Blocks of 64 columns whose weights are under way: kDepth · kGroups · 1 KB a warp.
  static constexpr int kDepth = kDepth_;
  // Whether the activations of the next block are loaded before this one is multiplied.
  static constexpr bool kAhead = kAhead_;
  // What a multiprocessor is to have room for, which sets the limit of registers. 384 threads: 168
  // registers, and three blocks of 4 warps or one of 8.
  static constexpr int kResidentThreads = 384;
  static constexpr int kSharedStride = kCols + 8;
};
// As deep as the registers allow. At 3 TB/s a multiprocessor needs about 20 KB under way; more is
// what it can read ahead while the predecessor ends. Narrow tiles, of which a multiprocessor gets
// one block of 8 warps: 96 KB. Wide ones, two to three blocks of 4 warps: about 100 KB.
using Skinny16x16 = SkinnyConfig<16, 16, 6, true>;
using Skinny16x32 = SkinnyConfig<16, 32, 3, true>;
// Here sums and activations take the registers: 64 and 32 KB.
using Skinny32x32 = SkinnyConfig<32, 32, 2, false>;
using Skinny64x32 = SkinnyConfig<64, 32, 1, false>;

// A lane's chunks of the weights in a block of 64 columns: [8-row group][c, c + 4].
template <int kGroups>
struct BlockWeights {
  uint4 chunk[kGroups][2];
};

// The first `count` of 8 elements, zeroes after them.
__device__ __forceinline__ uint4 keep_first(uint4 chunk, int count) {
  const auto keep = [&](uint32_t pair, int before) {
    if (count >= before + 2) return pair;
    return count == before + 1 ? pair & 0xffffu : 0u;
  };
  return {keep(chunk.x, 0), keep(chunk.y, 2), keep(chunk.z, 4), keep(chunk.w, 6)};
}

// A lane's part of the weights of kUnits x 16 rows, block after block of 64 columns.
template <int kUnits>
class WeightReader {
 public:
  __device__ __forceinline__ WeightReader(const PackedOperands& operands, int first_unit, int block,
                                          int lane)
      : at_(operands.weight +
            (static_cast<int64_t>(block) * operands.groups + 2 * first_unit) * kBlockElements +
            lane / 4 * kBlockCols + (lane % 4 ^ lane / 4) * 8),
        other_chunk_(lane / 4 < 4 ? 4 * 8 : -4 * 8),
        last_unit_(operands.groups / 2 - 1 - first_unit),
        block_stride_(static_cast<int64_t>(operands.groups) * kBlockElements) {}

  __device__ __forceinline__ void load_next(BlockWeights<2 * kUnits>& weights) {
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      // A unit beyond the matrix is its last one again; nobody stores what comes of it.
      const BFloat16* unit_at = at_ + (unit == 0 ? 0 : min(unit, last_unit_)) * 2 * kBlockElements;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const BFloat16* at = unit_at + half * kBlockElements;
        weights.chunk[2 * unit + half][0] = load_16_streaming(at);
        weights.chunk[2 * unit + half][1] = load_16_streaming(at + other_chunk_);
      }
    }
    at_ += block_stride_;
  }
  __device__ __forceinline__ void skip(int blocks) { at_ += blocks * block_stride_; }

 private:
  const BFloat16* at_;
  // Chunk t + 4 lies 4 chunks behind chunk t or before it, as the swizzle permutes halves of a row.
  int other_chunk_;
  int last_unit_;
  int64_t block_stride_;
};

// A lane's chunks of the activations in a block of 64 columns: [c, c + 4][row tile][g, g + 8].
template <int kRowTiles>
struct BlockRows {
  uint4 chunk[2][kRowTiles][2];
};

// A lane's part of the activations: rows g and g + 8 of every row tile, block after block of 64
// columns. Rows beyond the last read the last one again; nobody stores what comes of them.
template <int kRowTiles>
class ActivationReader {
 public:
  __device__ __forceinline__ ActivationReader(const PackedOperands& operands, int first_row,
                                              int block, int lane)
      : in_(operands.in), col_(block * kBlockCols) {
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int row = min(first_row + lane / 4 + 8 * i, operands.rows - 1);
      row_offset_[i] = row * static_cast<int>(operands.in_stride) + lane % 4 * 8;
    }
  }

  // Chunk t + 4·half, which is whole.
  __device__ __forceinline__ void load(int half, BlockRows<kRowTiles>& rows) const {
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) rows.chunk[half][i / 2][i % 2] = *chunk(half, i);
  }

  // The same, of a block of which only the first `cols` columns exist. What stands beyond them may
  // be anything, and 0 · NaN is not 0.
  __device__ __forceinline__ void load_tail(int half, int cols, int lane,
                                            BlockRows<kRowTiles>& rows) const {
    const int count = cols - (lane % 4 + 4 * half) * 8;
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i)
      rows.chunk[half][i / 2][i % 2] = count > 0 ? keep_first(*chunk(half, i), count) : uint4{};
  }

  __device__ __forceinline__ void advance() { col_ += kBlockCols; }

 private:
  __device__ __forceinline__ const uint4* chunk(int half, int i) const {
    const BFloat16* at = in_ + (row_offset_[i] + col_);
    return reinterpret_cast<const uint4*>(at + half * (kBlockCols / 2));
  }

  const BFloat16* in_;
  int col_;
  int row_offset_[2 * kRowTiles];
};

// sums += rows · weightᵀ over half a block of columns.
template <int kRowTiles, int kGroups>
__device__ __forceinline__ void multiply_half(float (&sums)[kRowTiles][kGroups][4], int half,
                                              const BlockRows<kRowTiles>& rows,
                                              const BlockWeights<kGroups>& weights) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    const uint4& low = rows.chunk[half][tile][0];
    const uint4& high = rows.chunk[half][tile][1];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint4& weight = weights.chunk[group][half];
      mma_16x8x16(sums[tile][group], {low.x, high.x, low.y, high.y}, {weight.x, weight.y});
      mma_16x8x16(sums[tile][group], {low.z, high.z, low.w, high.w}, {weight.z, weight.w});
    }
  }
}

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kResidentThreads)
    skinny_gemm_kernel(PackedOperands operands, int chunks, Epilogue epilogue) {
  constexpr int kRowTiles = Config::kRowTiles;
  constexpr int kGroups = Config::kGroups;
  constexpr int kDepth = Config::kDepth;
  allow_successor();

  const int num_warps = blockDim.x / kWarp;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int first_row = blockIdx.x % chunks * Config::kRows;
  const int first_unit = blockIdx.x / chunks * Config::kUnits;
  const int begin = operands.blocks * warp / num_warps;
  const int end = operands.blocks * (warp + 1) / num_warps;
  // A last block that is not full goes first: it is then no special case of the loop.
  const int tail_cols = end == operands.blocks ? operands.cols % kBlockCols : 0;
  const int num_whole = end - begin - (tail_cols > 0);

  WeightReader<Config::kUnits> weights(operands, first_unit, tail_cols > 0 ? end - 1 : begin, lane);
  BlockWeights<kGroups> ring[kDepth];
#pragma unroll
  for (int slot = 0; slot < kDepth; ++slot) {
    if (slot < end - begin) weights.load_next(ring[slot]);
    if (slot == 0 && tail_cols > 0) weights.skip(begin - end);
  }

  wait_for_predecessor();
  float sums[kRowTiles][kGroups][4] = {};
  if (tail_cols > 0) {
    const ActivationReader<kRowTiles> activations(operands, first_row, end - 1, lane);
    BlockRows<kRowTiles> rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      activations.load_tail(half, tail_cols, lane, rows);
      multiply_half(sums, half, rows, ring[0]);
    }
#pragma unroll
    for (int slot = 0; slot + 1 < kDepth; ++slot) ring[slot] = ring[slot + 1];
    if (kDepth < end - begin) weights.load_next(ring[kDepth - 1]);
  }

  // With kAhead both halves of a block at once, and of the block after the one that is multiplied;
  // else one half after the other.
  ActivationReader<kRowTiles> activations(operands, first_row, begin, lane);
  BlockRows<kRowTiles> ahead;
  const auto load_ahead = [&] {
    activations.load(0, ahead);
    activations.load(1, ahead);
    activations.advance();
  };
  if constexpr (Config::kAhead)
    if (num_whole > 0) load_ahead();

#pragma unroll 1
  for (int first = 0; first < num_whole; first += kDepth) {
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) {
      const int block = first + slot;
      if (block >= num_whole) break;
      BlockRows<kRowTiles> rows;
      if constexpr (Config::kAhead) {
        rows = ahead;
        if (block + 1 < num_whole) load_ahead();
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (!Config::kAhead) activations.load(half, rows);
        multiply_half(sums, half, rows, ring[slot]);
      }
      if constexpr (!Config::kAhead) activations.advance();
      if (block + kDepth < num_whole) weights.load_next(ring[slot]);
    }
  }

  // Row tile after row tile: every warp lays its sums down, then all threads add them up.
  constexpr int kStride = Config::kSharedStride;
  float* shared = dynamic_shared<float>();
#pragma unroll 1
  for (int round = 0; round < kRowTiles; ++round) {
    if (round > 0) __syncthreads();
    float* to = shared + (warp * 16 + lane / 4) * kStride + lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      if (tile != round) continue;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float(&sum)[4] = sums[tile][group];
        store_pair(to + group * 8, {sum[0], sum[1]});
        store_pair(to + group * 8 + 8 * kStride, {sum[2], sum[3]});
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < 16 * 4 * Config::kUnits; i += blockDim.x) {
      const int t = i % 4;
      const int unit = i / 4 % Config::kUnits;
      const int row = i / (4 * Config::kUnits);
      const int out_row = first_row + round * 16 + row;
      if (out_row >= operands.rows) break;
      const UnitColumns<Epilogue> columns(first_unit + unit, t);
      const auto addends = columns.addends(epilogue, out_row);
      const float* from = shared + row * kStride + unit * 16 + 2 * t;
      float2 first{}, second{};
#pragma unroll 4
      for (int w = 0; w < num_warps; ++w) {
        first = first + load_pair(from + w * 16 * kStride);
        second = second + load_pair(from + w * 16 * kStride + 8);
      }
      columns.finish(epilogue, out_row, first, second, addends);
    }
  }
}

template <typename Config, typename Epilogue>
void skinny_gemm(const char* stage, const PackedOperands& operands, const Epilogue& epilogue,
                 const LaunchContext& context) {
  if (operands.rows * operands.in_stride >= int64_t{1} << 31)
    fail(ErrorCode::kInvalidArgument, stage, ": ", operands.rows, " rows that are ",
         operands.in_stride, " elements apart, 2^31 elements is the limit");
  const int warps = split_warps(operands.cols);
  const int chunks = ceil_div(operands.rows, Config::kRows);
  const int tiles = ceil_div(operands.groups, Config::kGroups);
  const size_t shared_bytes = warps * 16 * Config::kSharedStride * sizeof(float);
  launch(stage, context, skinny_gemm_kernel<Config, Epilogue>, dim3(chunks * tiles),
         dim3(warps * kWarp), shared_bytes, operands, chunks, epilogue);
}

}  // namespace hymba::cuda
