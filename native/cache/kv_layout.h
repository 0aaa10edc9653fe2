// What the cache consists of and how many bytes it takes, worked out from plain integers.
//
// K/V lives in pages of kPageTokens tokens, in two pools. A page of the global pool holds its
// tokens for all global K/V producers, and a sequence keeps every page. A page of the window pool
// holds its tokens for all producers with a sliding window, and a sequence keeps only the pages
// that the window still reaches: a ring. Mamba state lives in slots, one a sequence; one more slot
// keeps the state after the meta tokens, from which sequences start. Snapshots of sequences
// (sequence_table.h) live in what the sequences leave idle, and in slots and window pages on top.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hymba {

enum class KvPool { kGlobal, kWindow };
inline constexpr std::array<KvPool, 2> kKvPools = {KvPool::kGlobal, KvPool::kWindow};

constexpr const char* pool_name(KvPool pool) {
  return pool == KvPool::kGlobal ? "global" : "sliding-window";
}

// One T for each pool.
template <typename T>
struct PerPool {
  T global{};
  T window{};

  constexpr T& operator[](KvPool pool) { return pool == KvPool::kGlobal ? global : window; }
  constexpr const T& operator[](KvPool pool) const {
    return pool == KvPool::kGlobal ? global : window;
  }
};

struct LayerKind {
  bool global = false;  // full attention; else a sliding window
  int kv_producer = 0;  // the layer whose K/V this one reads; its own index when it produces them
};

struct KvLayoutOptions {
  // The model.
  std::vector<LayerKind> layers;
  int num_meta_tokens = 0;
  int sliding_window = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int value_head_dim = 0;
  int inner_size = 0;
  int state_size = 0;
  int conv_width = 0;
  size_t kv_element_bytes = 0;
  size_t act_element_bytes = 0;  // of the conv state; SSM state is fp32
  // What it is loaded for.
  int max_sequences = 0;
  int max_context_tokens = 0;  // text tokens a sequence
  int max_batch_tokens = 0;    // tokens a step
  // Text tokens of all sequences together in the global pool, at least one whole context; 0: as
  // many as max_sequences contexts have.
  int64_t cache_tokens = 0;
  // For states and window pages of snapshots besides what sequences leave idle; -1: of as many as
  // there can be sequences, but no more than 8.
  int64_t prefix_cache_bytes = 0;
};

// Where a layer finds its K/V.
struct KvLayer {
  KvPool pool = KvPool::kGlobal;  // of its producer: a window consumer may read the global pool
  int pool_idx = 0;               // of its producer among the pool's layers
  bool is_producer = false;
  int window = -1;  // of its own mask; -1: sees everything
};

// A pool without layers has neither pages nor columns.
struct KvPoolLayout {
  int num_layers = 0;    // producers
  int meta_columns = 0;  // of a page table row, as in ops/kv_view.h
  int ring_columns = 0;  // enough that text pages which a step needs never share a column
  int num_pages = 0;
  int64_t page_bytes = 0;

  int num_columns() const { return meta_columns + ring_columns; }
  int64_t bytes() const { return num_pages * page_bytes; }
};

// One sequence with a given number of text tokens. `…_pages` counts whole pages, the others the
// tokens in them.
struct SequenceBytes {
  int64_t global_kv = 0;
  int64_t global_kv_pages = 0;
  int64_t window_kv = 0;
  int64_t window_kv_pages = 0;
  int64_t ssm = 0;
  int64_t conv = 0;
};

// All computed by the constructor. Bytes fit 64 bits, page and column indices 32.
struct KvLayout {
  // Throws kModelFormat for what the model says about itself, kInvalidArgument for what it is
  // loaded for.
  explicit KvLayout(const KvLayoutOptions& options);

  // Throws kInvalidArgument unless 0 ≤ context_tokens ≤ max_context_tokens.
  SequenceBytes bytes_per_sequence(int64_t context_tokens) const;

  KvLayoutOptions options;
  std::vector<KvLayer> layers;
  PerPool<KvPoolLayout> pools;

  // The most pages of its window that a sequence needs for the next token.
  int64_t window_ring_pages = 0;
  // What prefix_cache_bytes has room for.
  int num_reserved_snapshots = 0;
  int64_t snapshot_bytes = 0;  // of one: its state, and a whole ring
  // The most spans of more than one token in a step. The window pool has room for their chunks on
  // top of the rings.
  int max_prefill_spans = 0;

  int num_state_slots = 0;
  int64_t ssm_slot_bytes = 0;   // of all layers
  int64_t conv_slot_bytes = 0;  // of all layers
  int64_t state_bytes = 0;      // of all slots

  // K/V of the meta tokens in all producers, which every sequence shares.
  int64_t meta_kv_bytes = 0;
  int64_t meta_kv_page_bytes = 0;
};

}  // namespace hymba
