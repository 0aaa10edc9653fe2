// The cache in the memory of the backend: K/V pages of both pools, Mamba state slots and token
// history. Which page or slot belongs to whom is decided by SequenceTable; this is where they lie.
#pragma once

#include <span>
#include <vector>

#include "cache/kv_layout.h"
#include "cache/sequence_table.h"
#include "core/arena.h"
#include "model/config.h"

namespace hymba {

struct CacheViews {
  PerPool<TensorView> pages;            // [pages, page elements] act
  std::vector<TensorView> ssm_states;   // a layer: [slots, E, N] f32, one layer behind the other
  std::vector<TensorView> conv_states;  // a layer: [slots, W-1, E] act, likewise
  TensorView history;                   // [slots, V] u16
  TensorView last_tokens;               // [slots] i32, the token drawn last
};

// Carries copies out, in the order of the stages.
void copy_cache(const CacheCopies& copies, const CacheViews& cache, Backend& backend);

// An image is a sequence outside of the cache: its token history, its states layer by layer, its
// pages. How many bytes that takes follows from its length.
size_t image_bytes(const SequenceHoldings& held, const CacheViews& cache);
std::vector<char> read_image(const SequenceHoldings& held, const CacheViews& cache,
                             Backend& backend);
void write_image(const SequenceHoldings& held, std::span<const char> image, const CacheViews& cache,
                 Backend& backend);

KvLayout make_kv_layout(const ModelConfig& config, const ModelOptions& options);

CacheViews plan_cache(const ModelConfig& config, const ModelOptions& options,
                      const KvLayout& layout, Arena& arena);

}  // namespace hymba
