// KvLayerView on the device, and the order of elements inside a tile.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/page.h"
#include "ops/kv_view.h"

namespace hymba::cuda {

// Offset of element d of token `slot` inside K or V of a tile, whose tokens have `dim` elements
// each.
//
// A multiple of 64 elements: panels of 64, in a panel a row of 64 elements a token, and in a row
// the chunks of 8 elements permuted by the token. For bf16 that is the 128-byte swizzle: a row is
// 128 bytes, a chunk 16, and the 8 rows that ldmatrix or wgmma reads together lie in different
// banks.
//
// Any other width, which tensor cores do not meet: a row a token.
//
// In both, 8 elements from a multiple of 8 on lie side by side when `dim` is a multiple of 8.
__host__ __device__ __forceinline__ constexpr int kv_element(int slot, int d, int dim) {
  if (dim % 64 != 0) return slot * dim + d;
  return d / 64 * (kPageTokens * 64) + slot * 64 + ((d / 8 % 8) ^ (slot % 8)) * 8 + d % 8;
}

template <typename Act>
struct KvPages {
  Act* pool;
  const int32_t* page_table;
  int64_t table_stride;
  int num_layers;
  int layer_idx;
  int num_kv_heads;
  int head_dim;        // Dk
  int value_head_dim;  // Dv
  int num_meta_tokens;
  int meta_columns;
  int ring_columns;

  explicit KvPages(const KvLayerView& kv)
      : pool(static_cast<Act*>(kv.pool)),
        page_table(kv.page_table.data<int32_t>()),
        table_stride(kv.page_table.row_stride()),
        num_layers(kv.num_layers),
        layer_idx(kv.layer_idx),
        num_kv_heads(kv.num_kv_heads),
        head_dim(kv.head_dim),
        value_head_dim(kv.value_head_dim),
        num_meta_tokens(kv.num_meta_tokens),
        meta_columns(kv.meta_columns),
        ring_columns(kv.ring_columns) {}

  // The column of the page table, and the slot in that page, of the key at `position`: as in
  // ops/kv_view.h.
  __device__ __forceinline__ int column(int position) const {
    if (position < num_meta_tokens) return position / kPageTokens;
    return meta_columns + (position - num_meta_tokens) / kPageTokens % ring_columns;
  }
  __device__ __forceinline__ int slot(int position) const {
    return (position < num_meta_tokens ? position : position - num_meta_tokens) % kPageTokens;
  }

  __device__ __forceinline__ int page(int span, int column) const {
    return page_table[span * table_stride + column];
  }
  // Of a head's tile in a page, counted through the pool.
  __device__ __forceinline__ int64_t tile_index(int page, int kv_head) const {
    return (static_cast<int64_t>(page) * num_layers + layer_idx) * num_kv_heads + kv_head;
  }
  // K of that tile; V follows after 64 · Dk elements.
  __device__ __forceinline__ Act* tile(int page, int kv_head) const {
    return pool + tile_index(page, kv_head) * kPageTokens * (head_dim + value_head_dim);
  }
};

}  // namespace hymba::cuda
