// x_proj of few tokens, cut by columns: it has so few rows that its tiles would leave most of a GPU
// idle. What the kernel of the stage and the fused heads share.
//
// Mapping   A block takes 128 columns, two columns of blocks of the packed matrix, of up to four
//           tokens: a thread brings 8 columns of a token, then the warps share the rows of the
//           matrix, 16 at a time. What the block's columns contribute goes to the scratch, and the
//           last block of a tile of tokens to arrive adds up all contributions and takes the norms,
//           a warp each: with more tokens that one block would take longer than all others, and
//           with fewer columns a block it would have more to add up. Weights are on their way
//           before the predecessor has ended.
// Shared    Weights [2][R + 2N][64], and the activations [2][8][64], swizzled; the norms' weights;
//           later the sums [4][R + 2N] in the weights' place.
// Numerics  Sums in fp32: 128 columns in order, then every other block in order, and both sums of
//           those. A token's bits do not depend on the other tokens of the step, nor on its place
//           among them.
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
inline constexpr int kSplitTokens = 8;  // rows of a panel, of which a tile fills the first ones
inline constexpr int kSplitLanes = 2;   // that share the contributions to a row of the matrix
static_assert(kSplitTokens * kSplitPanels * kBlockCols == kSplitThreads * kChunkElements,
              "a thread brings 8 columns of a token");

struct SplitXProj {
  PackedOperands product;
  XProjNorms norms;
  Rows<BFloat16> out;
  float* contributions;  // [T][parts][rows of the packed matrix]
  uint32_t* counters;    // one a tile of tokens

  SplitXProj(const XProjArgs& args, float* contributions, uint32_t* counters)
      : product(args.u, args.weight),
        norms(args),
        out(args.out),
        contributions(contributions),
        counters(counters) {}

  __host__ __device__ int rows() const { return product.groups * kBlockRows; }
  int num_tiles() const { return ceil_div(product.rows, kTileTokens); }
  // Of the columns.
  __host__ __device__ int num_parts() const { return ceil_div(product.blocks, kSplitPanels); }
  __device__ __forceinline__ int tile(int block) const { return block / num_parts(); }
  int num_blocks() const { return num_parts() * num_tiles(); }
  size_t shared_bytes() const {
    return static_cast<size_t>(rows() + kSplitTokens) * kSplitPanels * kBlockCols *
               sizeof(BFloat16) +
           rows() * sizeof(float);
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
  const int panel_elements = product.groups * kBlockElements;
  BFloat16* const u = weights + kSplitPanels * panel_elements;
  const int thread = threadIdx.x;
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int num_parts = params.num_parts();
  const int part = block % num_parts;
  const int panels = min(kSplitPanels, product.blocks - part * kSplitPanels);
  const int tile = params.tile(block);
  const int first_token = tile * kTileTokens;
  const int num_tokens = min(kTileTokens, product.rows - first_token);

  const BFloat16* const from = product.weight + int64_t{part} * kSplitPanels * panel_elements;
  for (int i = thread * kChunkElements; i < panels * panel_elements;
       i += kSplitThreads * kChunkElements)
    copy_16_async(weights + i, from + i);
  commit_copies();
  const XProjNorms norms =
      params.norms.load(reinterpret_cast<float*>(u + kSplitTokens * kSplitPanels * kBlockCols));
  constexpr int kPanelChunks = kBlockCols / kChunkElements;
  const int row = thread / (kSplitPanels * kPanelChunks);
  const int chunk = thread % (kSplitPanels * kPanelChunks);
  if (row < num_tokens && chunk < panels * kPanelChunks) {
    auto columns = input.columns((part * kSplitPanels * kPanelChunks + chunk) * kChunkElements);
    wait_for_predecessor();
    store_chunk(u + shared_chunk<kSplitTokens>(row, chunk), columns.chunk(first_token + row),
                kChunkElements, true);
  }
  // Also those that bring nothing: what they write, others may still read.
  wait_for_predecessor();
  // Not before: what the successor reads ahead would be in the way of all this.
  allow_successor();
  wait_copies<0>();
  __syncthreads();

  // Rows 8 to 15 of the products are those of 0 to 7 again, and rows beyond the tile's anything.
  const MatrixRows<kSplitTokens> u_rows(u, lane % 8, lane / 16);
  const int weight_row = lane / 16 * 8 + lane % 8;
  float* const contributions =
      params.contributions + (int64_t{first_token} * num_parts + part) * params.rows();
  const int64_t token_stride = int64_t{num_parts} * params.rows();
  constexpr int kSteps = kBlockCols / 16;
  uint32_t a[kSplitPanels * kSteps][4];
#pragma unroll
  for (int step = 0; step < kSplitPanels * kSteps; ++step)
    load_matrix_x4(a[step], u_rows.at(0, step));
  for (int unit = warp; unit < product.groups / 2; unit += kSplitWarps) {
    float sums[2][4] = {};
#pragma unroll
    for (int panel = 0; panel < kSplitPanels; ++panel) {
      if (panel >= panels) break;
      // Of any number of rows: so each panel is addressed as the only one.
      const MatrixRows<kSplitTokens> weight_rows(weights + panel * panel_elements, weight_row,
                                                 lane / 8 % 2);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t b[4];
        load_matrix_x4(b, weight_rows.at(unit * 16, step));
        mma_16x8x16(sums[0], a[panel * kSteps + step], {b[0], b[1]});
        mma_16x8x16(sums[1], a[panel * kSteps + step], {b[2], b[3]});
      }
    }
    static_assert(kTileTokens <= 8, "the rows of the lower half");
    if (const int token = lane / 4; token < num_tokens) {
      float* const to = contributions + token * token_stride + unit * 16 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(sums[0][0], sums[0][1]);
      *reinterpret_cast<float2*>(to + 8) = make_float2(sums[1][0], sums[1][1]);
    }
  }
  if (!arrives_last(params.counters + tile, num_parts)) return false;

  // Two neighbouring lanes add up the contributions to the same four rows of the matrix.
  float* const sums = reinterpret_cast<float*>(weights);
  const int quads = params.rows() / 4;
  const int items = num_tokens * quads * kSplitLanes;
  for (int first = 0; first < items; first += kSplitThreads) {
    const int item = first + thread;
    const int own = item % kSplitLanes;
    const int quad = item / kSplitLanes % quads;
    const int token = item / kSplitLanes / quads;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (item < items) {
      const float* const at =
          params.contributions + (first_token + token) * token_stride + quad * 4;
      // Many are asked for at once, so that memory is waited for less often.
      constexpr int kAtOnce = 13;
      for (int i = own; i < num_parts; i += kAtOnce * kSplitLanes) {
        float4 some[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int from = i + j * kSplitLanes;
          some[j] = from < num_parts ? *reinterpret_cast<const float4*>(at + from * params.rows())
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
    sum.x = warp_sum<kSplitLanes>(sum.x);
    sum.y = warp_sum<kSplitLanes>(sum.y);
    sum.z = warp_sum<kSplitLanes>(sum.z);
    sum.w = warp_sum<kSplitLanes>(sum.w);
    if (own == 0 && item < items)
      *reinterpret_cast<float4*>(sums + token * params.rows() + quad * 4) = sum;
  }
  __syncthreads();
  for (int item = warp; item < num_tokens * XProjNorms::kSegments; item += kSplitWarps) {
    const int token = item / XProjNorms::kSegments;
    normalize_x_proj(sums + token * params.rows(), norms, item % XProjNorms::kSegments,
                     params.out[first_token + token]);
  }
  return true;
}

}  // namespace hymba::cuda
