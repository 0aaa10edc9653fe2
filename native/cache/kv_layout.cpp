#include "cache/kv_layout.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/page.h"

namespace hymba {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

// Each may need a page of headroom in the window pool, and so many prompts fill any batch.
constexpr int kMaxPrefillSpans = 64;

// As many as sequences.
constexpr int64_t kMaxReservedSnapshots = 65535;
// A few keep a common beginning there while as many sequences run as there can be.
constexpr int64_t kDefaultReservedSnapshots = 8;

void check_range(ErrorCode code, const char* what, int64_t actual, int64_t min, int64_t max) {
  if (actual < min || actual > max)
    fail(code, what, " is ", actual, ", expected ", min, " to ", max);
}

// `count` units of `unit_bytes`. The limit leaves room to add such sizes up.
int64_t total_bytes(const std::string& what, int64_t count, int64_t unit_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 60;
  if (unit_bytes > kMaxBytes / count)
    fail(ErrorCode::kInvalidArgument, "the ", what, " would take ", count, " x ", unit_bytes,
         " bytes, expected at most 2^60: lower maxSequences or maxContextTokens");
  return count * unit_bytes;
}

// The upper ends are far beyond any model, and low enough that the bytes of a page (2^48) and of a
// slot (2^55) fit. What they are multiplied by is checked when that is done.
void check_model(const KvLayoutOptions& options) {
  constexpr ErrorCode kCode = ErrorCode::kModelFormat;
  check_range(kCode, "the number of layers", std::ssize(options.layers), 1, 1 << 12);
  check_range(kCode, "num_meta_tokens", options.num_meta_tokens, 0, 1 << 20);
  check_range(kCode, "sliding_window", options.sliding_window, 0, kMaxInt);
  check_range(kCode, "num_kv_heads", options.num_kv_heads, 1, 1 << 12);
  check_range(kCode, "head_dim", options.head_dim, 1, 1 << 14);
  check_range(kCode, "value_head_dim", options.value_head_dim, 1, 1 << 14);
  check_range(kCode, "inner_size", options.inner_size, 1, 1 << 24);
  check_range(kCode, "state_size", options.state_size, 1, 1 << 14);
  check_range(kCode, "conv_width", options.conv_width, 1, 1 << 14);
  // The element sizes are our own code's.
  check(options.kv_element_bytes >= 1 && options.kv_element_bytes <= 8, "K/V elements of ",
        options.kv_element_bytes, " bytes");
  check(options.act_element_bytes >= 1 && options.act_element_bytes <= 8, "activations of ",
        options.act_element_bytes, " bytes");
}

void check_load_options(const KvLayoutOptions& options) {
  constexpr ErrorCode kCode = ErrorCode::kInvalidArgument;
  check_range(kCode, "maxSequences", options.max_sequences, 1, 65535);
  check_range(kCode, "maxContextTokens", options.max_context_tokens, 1,
              kMaxInt - kPageTokens - options.num_meta_tokens);
  check_range(kCode, "maxBatchTokens", options.max_batch_tokens, 1, kMaxInt);
  check_range(kCode, "cacheTokens", options.cache_tokens, 0,
              std::numeric_limits<int64_t>::max() - kPageTokens);
  check_range(kCode, "prefixCacheBytes", options.prefix_cache_bytes, -1,
              std::numeric_limits<int64_t>::max());
}

// The producer of `layer` exists, comes no later, makes its own K/V and keeps every key that the
// layer may see.
void check_producer(const std::vector<LayerKind>& layers, int layer) {
  const int producer = layers[layer].kv_producer;
  if (producer < 0 || producer > layer)
    fail(ErrorCode::kModelFormat, "layer ", layer, " reads the K/V of layer ", producer,
         ", expected itself or a layer before it");
  if (layers[producer].kv_producer != producer)
    fail(ErrorCode::kModelFormat, "layer ", layer, " reads the K/V of layer ", producer,
         ", which has none of its own: it reads those of layer ", layers[producer].kv_producer);
  if (layers[layer].global && !layers[producer].global)
    fail(ErrorCode::kModelFormat, "layer ", layer,
         " attends to all tokens but reads the K/V of layer ", producer,
         ", which keeps those of its sliding window only");
}

// Sets `layers`, and `num_layers` of each pool.
void map_layers(KvLayout& layout) {
  const std::vector<LayerKind>& kinds = layout.options.layers;
  for (int i = 0; i < std::ssize(kinds); ++i) {
    check_producer(kinds, i);
    KvLayer layer;
    layer.is_producer = kinds[i].kv_producer == i;
    if (layer.is_producer) {
      layer.pool = kinds[i].global ? KvPool::kGlobal : KvPool::kWindow;
      layer.pool_idx = layout.pools[layer.pool].num_layers++;
    } else {
      layer.pool = layout.layers[kinds[i].kv_producer].pool;
      layer.pool_idx = layout.layers[kinds[i].kv_producer].pool_idx;
    }
    layer.window = kinds[i].global ? -1 : layout.options.sliding_window;
    layout.layers.push_back(layer);
  }
}

// The pages that a sequence can hold of its ring.
int64_t ring_in_context(const KvLayout& layout) {
  return std::min(layout.window_ring_pages, pages_for(layout.options.max_context_tokens));
}

// Sets the bytes of a page, of a slot, and of a snapshot, and how many of those are reserved.
void size_units(KvLayout& layout) {
  const KvLayoutOptions& options = layout.options;
  for (KvPool pool : kKvPools)
    layout.pools[pool].page_bytes =
        int64_t{kPageTokens} * options.num_kv_heads * (options.head_dim + options.value_head_dim) *
        static_cast<int64_t>(options.kv_element_bytes) * layout.pools[pool].num_layers;
  const int64_t channels = std::ssize(options.layers) * options.inner_size;
  layout.ssm_slot_bytes = channels * options.state_size * static_cast<int64_t>(sizeof(float));
  layout.conv_slot_bytes =
      channels * (options.conv_width - 1) * static_cast<int64_t>(options.act_element_bytes);
  layout.window_ring_pages = pages_for(options.sliding_window) + 1;
  layout.snapshot_bytes = layout.ssm_slot_bytes + layout.conv_slot_bytes +
                          total_bytes("sliding window of a sequence", ring_in_context(layout),
                                      layout.pools.window.page_bytes);
  layout.num_reserved_snapshots = static_cast<int>(
      options.prefix_cache_bytes < 0
          ? std::min<int64_t>(options.max_sequences, kDefaultReservedSnapshots)
          : std::min(options.prefix_cache_bytes / layout.snapshot_bytes, kMaxReservedSnapshots));
}

// Sets the rest of a pool that has layers. `text_pages` does not count the meta tokens.
void size_pool(KvLayout& layout, KvPool which, int64_t ring_columns, int64_t text_pages) {
  const KvLayoutOptions& options = layout.options;
  KvPoolLayout& pool = layout.pools[which];
  if (pool.num_layers == 0) return;
  const int64_t meta_columns = pages_for(options.num_meta_tokens);
  const int64_t num_pages = text_pages + meta_columns;
  if (num_pages > kMaxInt)
    fail(ErrorCode::kInvalidArgument, "the ", pool_name(which), " K/V pool would have ", num_pages,
         " pages, expected at most ", kMaxInt, ": lower maxSequences or maxContextTokens");
  pool.meta_columns = static_cast<int>(meta_columns);
  pool.ring_columns = static_cast<int>(ring_columns);
  pool.num_pages = static_cast<int>(num_pages);
  total_bytes(std::string(pool_name(which)) + " K/V pool", pool.num_pages, pool.page_bytes);
}

// Every page of a sequence has a column of its own.
void size_global_pool(KvLayout& layout) {
  const KvLayoutOptions& options = layout.options;
  const int64_t context_pages = pages_for(options.max_context_tokens);
  const int64_t all_pages = options.max_sequences * context_pages;
  const int64_t text_pages = options.cache_tokens == 0 ? all_pages
                                                       : std::clamp(pages_for(options.cache_tokens),
                                                                    context_pages, all_pages);
  size_pool(layout, KvPool::kGlobal, context_pages, text_pages);
}

// A token sees `sliding_window` + 1 positions, which touch at most ceil(window / 64) + 1 pages: the
// ring. A span of n > 1 tokens sees n - 1 more, which touch at most ceil((n - 1) / 64) pages more.
// Over the spans of a step that sums to no more than the headroom, so that a step never fails for
// want of window pages. The ring's columns hold the pages of the longest span at once. Nothing can
// be more than the pages of whole contexts.
void size_window_pool(KvLayout& layout) {
  const KvLayoutOptions& options = layout.options;
  const int64_t context_pages = pages_for(options.max_context_tokens);
  const int64_t ring = layout.window_ring_pages;
  const int64_t snapshot_pages = layout.num_reserved_snapshots * ring_in_context(layout);
  const int64_t chunk_pages = pages_for(options.max_batch_tokens);
  const int64_t headroom = chunk_pages + layout.max_prefill_spans;
  const int64_t text_pages = std::min(options.max_sequences * ring_in_context(layout) + headroom,
                                      options.max_sequences * context_pages) +
                             snapshot_pages;
  size_pool(layout, KvPool::kWindow, std::min(ring + chunk_pages + 1, context_pages), text_pages);
}

void size_state(KvLayout& layout) {
  layout.num_state_slots = layout.options.max_sequences + 1 + layout.num_reserved_snapshots;
  layout.state_bytes = total_bytes("Mamba state", layout.num_state_slots,
                                   layout.ssm_slot_bytes + layout.conv_slot_bytes);
}

}  // namespace

KvLayout::KvLayout(const KvLayoutOptions& options) : options(options) {
  check_model(options);
  check_load_options(options);
  map_layers(*this);
  size_units(*this);
  max_prefill_spans = std::min(options.max_sequences, kMaxPrefillSpans);
  size_global_pool(*this);
  size_window_pool(*this);
  size_state(*this);
  for (KvPool pool : kKvPools) {
    meta_kv_bytes += options.num_meta_tokens * (pools[pool].page_bytes / kPageTokens);
    meta_kv_page_bytes += pools[pool].meta_columns * pools[pool].page_bytes;
  }
}

SequenceBytes KvLayout::bytes_per_sequence(int64_t context_tokens) const {
  check_range(ErrorCode::kInvalidArgument, "contextTokens", context_tokens, 0,
              options.max_context_tokens);
  const int64_t global_page = pools.global.page_bytes;
  const int64_t window_page = pools.window.page_bytes;
  const int64_t window_tokens = std::min(context_tokens, int64_t{options.sliding_window} + 1);
  SequenceBytes bytes;
  bytes.global_kv = context_tokens * (global_page / kPageTokens);
  bytes.global_kv_pages = pages_for(context_tokens) * global_page;
  bytes.window_kv = window_tokens * (window_page / kPageTokens);
  bytes.window_kv_pages = std::min(window_ring_pages, pages_for(context_tokens)) * window_page;
  bytes.ssm = ssm_slot_bytes;
  bytes.conv = conv_slot_bytes;
  return bytes;
}

}  // namespace hymba
