// The tiles of (token, head) rows that spans of more than one token are cut into, and how a warp
// stores the rows that it has finished.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "cuda/device/panels.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda {

// The tokens of a block.
struct SpanTile {
  int span;
  int first_token;
  int num_tokens;  // 0: an empty tile, or not for these kernels
};

// Span s begins at tile offset[s] / tile_tokens + s, so that some tiles stay empty.
inline int64_t count_span_tiles(const BatchView& batch, int tile_tokens) {
  return batch.num_tokens / tile_tokens + batch.num_spans;
}

__device__ __forceinline__ SpanTile find_span_tile(const DeviceBatch& batch, int index,
                                                   int tile_tokens) {
  const auto first_tile = [&](int span) { return batch.span_offsets[span] / tile_tokens + span; };
  int span = 0;
  int end = batch.num_spans;
  while (end - span > 1) {
    const int middle = (span + end) / 2;
    (first_tile(middle) <= index ? span : end) = middle;
  }
  const int first_token = batch.span_offsets[span] + (index - first_tile(span)) * tile_tokens;
  const int end_token = batch.span_offsets[span + 1];
  const bool single = end_token - batch.span_offsets[span] == 1;
  if (single || first_token >= end_token || batch.padded(span)) return {span, first_token, 0};
  return {span, first_token, min(tile_tokens, end_token - first_token)};
}

// A warp's sums over values, 16·kRowTiles rows as mma leaves them, divided by `row_sum(tile, half)`
// of rows g (half 0) and g + 8 of a tile: to `staged` as bf16, [16·kRowTiles][kValueDim] swizzled,
// and from there 16 bytes a store. `first_row` of the tile of tokens is the warp's first.
template <int kRowTiles, int kValueDim, typename RowSum>
__device__ __forceinline__ void store_span_rows(const float (&sums)[kRowTiles][kValueDim / 8][4],
                                                const RowSum& row_sum, BFloat16* staged,
                                                const Rows<BFloat16>& out, const SpanTile& tile,
                                                int first_row, int first_head, int group,
                                                int lane) {
  constexpr int kWarpRows = 16 * kRowTiles;
  constexpr int kRowChunks = kValueDim / kChunkElements;
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = 1.0f / row_sum(t, half);
      const int row = t * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int i = 0; i < kRowChunks; ++i)
        *reinterpret_cast<uint32_t*>(staged + shared_chunk<kWarpRows>(row, i) + lane % 4 * 2) =
            pack_bf16x2(sums[t][i][2 * half] * inverse, sums[t][i][2 * half + 1] * inverse);
    }
  __syncwarp();
  const int num_rows = tile.num_tokens * group;
#pragma unroll
  for (int i = 0; i < kWarpRows * kRowChunks; i += kWarp) {
    const int row = (i + lane) / kRowChunks;
    const int chunk = (i + lane) % kRowChunks;
    if (first_row + row >= num_rows) continue;
    const int token = tile.first_token + (first_row + row) / group;
    const int head = first_head + (first_row + row) % group;
    *reinterpret_cast<uint4*>(out[token] + head * kValueDim + chunk * kChunkElements) =
        *reinterpret_cast<const uint4*>(staged + shared_chunk<kWarpRows>(row, chunk));
  }
}

}  // namespace hymba::cuda
