// How a stage sees the paged K/V cache of one layer.
#pragma once

#include <cstdint>

#include "core/page.h"
#include "core/tensor_view.h"

namespace hymba {

// The K/V of one layer (or of the producer that it shares K/V with), reached through a page table a
// span.
//
// A pool is an array of pages; a page holds one tile for each (layer of the pool, K/V head); a tile
// holds K [64, Dk], then V [64, Dv], contiguous. The order of elements inside K and V is the
// backend's own business.
//
// A row of the page table has `meta_columns` pages of meta tokens, then `ring_columns` pages of
// text: text token i (position M + i) is slot i % 64 of the page in column meta_columns + (i / 64)
// % ring_columns; meta token j is slot j % 64 of the page in column j / 64. Pages that left a
// sliding window are no longer in the table: their columns are stale.
struct KvLayerView {
  void* pool = nullptr;
  DType dtype = DType::kBF16;
  int num_pages = 0;
  int num_layers = 0;  // tiles a page: num_layers · num_kv_heads
  int layer_idx = 0;   // of this layer inside the pool
  int num_kv_heads = 0;
  int head_dim = 0;        // Dk
  int value_head_dim = 0;  // Dv
  TensorView page_table;   // [S, meta_columns + ring_columns] i32
  int num_meta_tokens = 0;
  int meta_columns = 0;
  int ring_columns = 0;

  int64_t tile_elements() const {
    return static_cast<int64_t>(kPageTokens) * (head_dim + value_head_dim);
  }
  // 64-bit: a pool can hold tens of gigabytes.
  int64_t tile_offset(int page, int kv_head) const {
    return ((static_cast<int64_t>(page) * num_layers + layer_idx) * num_kv_heads + kv_head) *
           tile_elements();
  }
  // The column of the page table that holds the key at `position`.
  int column(int position) const {
    if (position < num_meta_tokens) return position / kPageTokens;
    return meta_columns + (position - num_meta_tokens) / kPageTokens % ring_columns;
  }
  // The slot inside that page.
  int slot(int position) const {
    return (position < num_meta_tokens ? position : position - num_meta_tokens) % kPageTokens;
  }
};

}  // namespace hymba
