#include "model/cache.h"

namespace hymba {

KvLayout make_kv_layout(const ModelConfig& config, const ModelOptions& options) {
  KvLayoutOptions layout;
  for (const LayerConfig& layer : config.layers)
    layout.layers.push_back({layer.global_attention, layer.kv_producer});
  layout.num_meta_tokens = config.num_meta_tokens;
  layout.sliding_window = config.sliding_window;
  layout.num_kv_heads = config.num_kv_heads;
  layout.head_dim = config.head_dim;
  layout.value_head_dim = config.value_head_dim;
  layout.inner_size = config.inner_size;
  layout.state_size = config.state_size;
  layout.conv_width = config.conv_width;
  layout.kv_element_bytes = dtype_bytes(options.dtype);
  layout.act_element_bytes = dtype_bytes(options.dtype);
  layout.max_sequences = options.max_sequences;
  layout.max_context_tokens = options.max_context_tokens;
  layout.max_batch_tokens = options.max_batch_tokens;
  layout.cache_tokens = options.cache_tokens;
  return KvLayout(layout);
}

CacheViews plan_cache(const ModelConfig& config, const ModelOptions& options,
                      const KvLayout& layout, Arena& arena) {
  CacheViews cache;
  for (KvPool pool : kKvPools) {
    const KvPoolLayout& pages = layout.pools[pool];
    const int64_t page_elements =
        pages.page_bytes / static_cast<int64_t>(dtype_bytes(options.dtype));
    if (pages.num_pages > 0)
      cache.pages[pool] = arena.take(options.dtype, {pages.num_pages, page_elements});
  }
  for (int layer = 0; layer < config.num_layers(); ++layer) {
    cache.ssm_states.push_back(
        arena.take(DType::kF32, {layout.num_state_slots, config.inner_size, config.state_size}));
    cache.conv_states.push_back(arena.take(
        options.dtype, {layout.num_state_slots, config.conv_width - 1, config.inner_size}));
  }
  cache.history = arena.take(DType::kU16, {layout.num_state_slots, config.vocab_size});
  cache.last_tokens = arena.take(DType::kI32, {layout.num_state_slots});
  return cache;
}

}  // namespace hymba
