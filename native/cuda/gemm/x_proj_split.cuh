// x_proj of few tokens, cut by columns: it has so few rows that its tiles would leave most of a GPU
// idle. What the kernel of the stage and the fused heads share.
//
// Mapping   A block takes 64 columns, one column of blocks of the packed matrix, of up to four
//           tokens: a thread brings 8 columns of a token, then the warps share the rows of the
//           matrix, 16 at a time. What the block's columns contribute goes to the scratch, and the
//           last block of a tile of tokens to arrive adds up all contributions and takes the norms,
//           a warp a row: with more tokens that one block would take longer than all others.
//           Weights are on their way before the predecessor has ended.
// Shared    Weights [R + 2N][64], and the activations [16][64], swizzled; later the sums
//           [16][R + 2N] in the weights' place.
// Numerics  Sums in fp32: 64 columns in order, then every fourth block in order, and the four sums
//           of those in pairs. A token's bits do not depend on the other tokens of the step, nor on
//           its place among them.
// Limits    splits_x_proj (x_proj.h).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/arrival.cuh"
#include "cuda/device/chunk.cuh"
#include "cuda/device/panels.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/gemm/x_proj_norm.cuh"
#include "cuda/runtime/launch.h"

namespace hymba::cuda {

inline constexpr int kSplitThreads = 128;
inline constexpr int kSplitWarps = kSplitThreads / kWarp;
inline constexpr int kTileTokens = 4;
inline constexpr int kSplitTokens = 16;  // rows of an mma, of which a tile fills the first ones
inline constexpr int kSplitParts = 4;    // of the blocks whose contributions are added up
static_assert(kSplitTokens * kBlockCols == kSplitThreads * kChunkElements,
              "a thread brings 8 columns of a token");

struct SplitXProj {
  PackedOperands product;
  XProjNorms norms;
  Rows<BFloat16> out;
  float* contributions;  // [T][column blocks][rows of the packed matrix]
  uint32_t* counters;    // one a tile of tokens

  SplitXProj(const XProjArgs& args, float* contributions, uint32_t* counters)
      : product(args.u, args.weight),
        norms(args),
        out(args.out),
        contributions(contributions),
        counters(counters) {}

  __host__ __device__ int rows() const { return product.groups * kBlockRows; }
  int num_tiles() const { return ceil_div(product.rows, kTileTokens); }
  __device__ __forceinline__ int tile(int block) const { return block / product.blocks; }
  int num_blocks() const { return product.blocks * num_tiles(); }
  size_t shared_bytes() const {
    return static_cast<size_t>(rows() + kSplitTokens) * kBlockCols * sizeof(BFloat16);
  }
};

// Block `block` of the stage. All threads of a block of kSplitThreads call it, and it waits for the
// predecessor. `input.columns(c)`, called before, gives something that has 8 columns from c on,
// those beyond the last as zeroes, of a token: chunk(token). Returns whether this is the block that
// wrote the tile's rows.
template <typename Input>
__device__ __forceinline__ bool project_columns(const SplitXProj& params, int block,
                                                const Input& input) {
  const PackedOperands& product = params.product;
  BFloat16* const weights = dynamic_shared<BFloat16>();
  BFloat16* const u = weights + product.groups * kBlockElements;
  const int thread = threadIdx.x;
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int column_block = block % product.blocks;
  const int tile = params.tile(block);
  const int first_token = tile * kTileTokens;
  const int num_tokens = min(kTileTokens, product.rows - first_token);

  const BFloat16* const from =
      product.weight + int64_t{column_block} * product.groups * kBlockElements;
  for (int i = thread * kChunkElements; i < product.groups * kBlockElements;
       i += kSplitThreads * kChunkElements)
    copy_16_async(weights + i, from + i);
  commit_copies();
  constexpr int kTokenThreads = kBlockCols / kChunkElements;
  const int row = thread / kTokenThreads;
  const int chunk = thread % kTokenThreads;
  auto columns = input.columns(column_block * kBlockCols + chunk * kChunkElements);
  wait_for_predecessor();
  store_chunk(
      u + shared_chunk<kSplitTokens>(row, chunk),
      row < num_tokens ? columns.chunk(first_token + row) : zero_chunk<BFloat16, kChunkElements>(),
      kChunkElements, true);
  wait_copies<0>();
  __syncthreads();

  // Everything lies in one panel, of any number of rows.
  const MatrixRows<kSplitTokens> u_rows(u, lane % 16, lane / 16);
  const MatrixRows<kSplitTokens> weight_rows(weights, lane / 16 * 8 + lane % 8, lane / 8 % 2);
  float* const contributions =
      params.contributions + (int64_t{first_token} * product.blocks + column_block) * params.rows();
  const int64_t token_stride = int64_t{product.blocks} * params.rows();
  uint32_t a[kBlockCols / 16][4];
#pragma unroll
  for (int step = 0; step < kBlockCols / 16; ++step) load_matrix_x4(a[step], u_rows.at(0, step));
  for (int unit = warp; unit < product.groups / 2; unit += kSplitWarps) {
    float sums[2][4] = {};
#pragma unroll
    for (int step = 0; step < kBlockCols / 16; ++step) {
      uint32_t b[4];
      load_matrix_x4(b, weight_rows.at(unit * 16, step));
      mma_16x8x16(sums[0], a[step], {b[0], b[1]});
      mma_16x8x16(sums[1], a[step], {b[2], b[3]});
    }
    static_assert(kTileTokens <= 8, "the rows of the lower half");
    const int token = lane / 4;
    if (token >= num_tokens) continue;
    float* const to = contributions + token * token_stride + unit * 16 + lane % 4 * 2;
    *reinterpret_cast<float2*>(to) = make_float2(sums[0][0], sums[0][1]);
    *reinterpret_cast<float2*>(to + 8) = make_float2(sums[1][0], sums[1][1]);
  }
  if (!arrives_last(params.counters + tile, product.blocks)) return false;

  // Four neighbouring lanes add up the contributions to the same four rows of the matrix.
  float* const sums = reinterpret_cast<float*>(weights);
  const int quads = params.rows() / 4;
  const int items = num_tokens * quads * kSplitParts;
  for (int first = 0; first < items; first += kSplitThreads) {
    const int item = first + thread;
    const int part = item % kSplitParts;
    const int quad = item / kSplitParts % quads;
    const int token = item / kSplitParts / quads;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (item < items) {
      const float* const at =
          params.contributions + (first_token + token) * token_stride + quad * 4;
      // Asked for by the eight, so that memory is waited for less often.
      constexpr int kAtOnce = 8;
      for (int i = part; i < product.blocks; i += kAtOnce * kSplitParts) {
        float4 some[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int block = i + j * kSplitParts;
          some[j] = block < product.blocks
                        ? *reinterpret_cast<const float4*>(at + block * params.rows())
                        : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          sum.x += some[j].x;
          sum.y += some[j].y;
          sum.z += some[j].z;
          sum.w += some[j].w;
        }
      }
    }
    sum.x = warp_sum<kSplitParts>(sum.x);
    sum.y = warp_sum<kSplitParts>(sum.y);
    sum.z = warp_sum<kSplitParts>(sum.z);
    sum.w = warp_sum<kSplitParts>(sum.w);
    if (part == 0 && item < items)
      *reinterpret_cast<float4*>(sums + token * params.rows() + quad * 4) = sum;
  }
  __syncthreads();
  for (int token = warp; token < num_tokens; token += kSplitWarps)
    normalize_x_proj_row(sums + token * params.rows(), params.norms,
                         params.out[first_token + token]);
  return true;
}

}  // namespace hymba::cuda
