#include "model/cache.h"

namespace hymba {
namespace {

// Where the parts of a sequence lie, in the order in which an image has them.
std::vector<TensorView> parts_of(const SequenceHoldings& held, const CacheViews& cache) {
  std::vector<TensorView> parts;
  const auto add = [&](const TensorView& rows, int row) {
    parts.push_back(rows.slice_rows(row, 1));
  };
  add(cache.history, held.state_slot);
  for (size_t layer = 0; layer < cache.ssm_states.size(); ++layer) {
    add(cache.ssm_states[layer], held.state_slot);
    add(cache.conv_states[layer], held.state_slot);
  }
  for (KvPool pool : kKvPools)
    for (int page : held.pages[pool]) add(cache.pages[pool], page);
  return parts;
}

}  // namespace

size_t image_bytes(const SequenceHoldings& held, const CacheViews& cache) {
  size_t bytes = 0;
  for (const TensorView& part : parts_of(held, cache)) bytes += part.bytes();
  return bytes;
}

std::vector<char> read_image(const SequenceHoldings& held, const CacheViews& cache,
                             Backend& backend) {
  std::vector<char> image(image_bytes(held, cache));
  char* to = image.data();
  for (const TensorView& part : parts_of(held, cache)) {
    backend.download(to, part.raw(), part.bytes());
    to += part.bytes();
  }
  return image;
}

void write_image(const SequenceHoldings& held, std::span<const char> image, const CacheViews& cache,
                 Backend& backend) {
  check(image.size() == image_bytes(held, cache), "write_image: ", image.size(), " bytes");
  const char* from = image.data();
  for (const TensorView& part : parts_of(held, cache)) {
    backend.upload(part.raw(), from, part.bytes());
    from += part.bytes();
  }
}

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
  layout.prefix_cache_bytes = options.prefix_cache_bytes;
  return KvLayout(layout);
}

void copy_cache(const CacheCopies& copies, const CacheViews& cache, Backend& backend) {
  for (KvPool pool : kKvPools)
    for (const auto& [from, to] : copies.pages[pool]) {
      const TensorView& pages = cache.pages[pool];
      backend.copy(pages.slice_rows(to, 1).raw(), pages.slice_rows(from, 1).raw(),
                   pages.slice_rows(to, 1).bytes());
    }
  const auto copy_slot = [&](const std::vector<TensorView>& layers, const auto& copy) {
    const TensorView to = layers[0].slice_rows(copy.to, 1);
    backend.copy_rows(to.raw(), layers[0].slice_rows(copy.from, 1).raw(), to.bytes(),
                      layers[0].bytes(), layers.size());
  };
  for (const CacheCopies::Copy& copy : copies.slots) {
    copy_slot(cache.ssm_states, copy);
    copy_slot(cache.conv_states, copy);
  }
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
  // Together, so that the state of a slot in all layers is copied at once.
  const int64_t slots = layout.num_state_slots;
  const int64_t rows = config.num_layers() * slots;
  const TensorView ssm = arena.take(DType::kF32, {rows, config.inner_size, config.state_size});
  const TensorView conv =
      arena.take(options.dtype, {rows, config.conv_width - 1, config.inner_size});
  for (int layer = 0; layer < config.num_layers(); ++layer) {
    cache.ssm_states.push_back(ssm.slice_rows(layer * slots, slots));
    cache.conv_states.push_back(conv.slice_rows(layer * slots, slots));
  }
  cache.history = arena.take(DType::kU16, {layout.num_state_slots, config.vocab_size});
  cache.last_tokens = arena.take(DType::kI32, {layout.num_state_slots});
  return cache;
}

}  // namespace hymba
