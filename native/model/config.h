// The model's shape and the limits that it is loaded with. Parsed and validated in TypeScript
// (lib/checkpoint/config.ts).
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "model/rope.h"
#include "ops/ops.h"

namespace hymba {

struct LayerConfig {
  bool global_attention = false;
  int kv_producer = 0;  // the layer whose K/V this one reads; its own index when it produces them
};

enum class KqNorm { kNone, kRms, kPerheadRms };

struct ModelConfig {
  int hidden_size = 0;        // C
  int num_heads = 0;          // H
  int num_kv_heads = 0;       // G
  int head_dim = 0;           // Dk
  int value_head_dim = 0;     // Dv
  int inner_size = 0;         // E = H·Dv
  int state_size = 0;         // N
  int conv_width = 0;         // W
  int dt_rank = 0;            // R
  int intermediate_size = 0;  // F
  int vocab_size = 0;         // V
  int num_meta_tokens = 0;    // M
  int sliding_window = 0;
  MlpActivation mlp_activation = MlpActivation::kSilu;
  KqNorm kq_norm = KqNorm::kNone;
  RopeConfig rope;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = true;
  bool conv_bias = true;
  bool proj_bias = false;
  bool inner_layernorms = true;
  std::vector<LayerConfig> layers;

  int num_layers() const { return static_cast<int>(layers.size()); }
  bool produces_kv(int layer) const { return layers[layer].kv_producer == layer; }
  // Output features of in_proj: q, then k and v where the layer produces them, then u and z.
  int in_proj_rows(int layer) const {
    const int kv_rows = produces_kv(layer) ? num_kv_heads * (head_dim + value_head_dim) : 0;
    return num_heads * head_dim + kv_rows + 2 * inner_size;
  }
};

struct ModelOptions {
  DType dtype = DType::kBF16;  // of activations, K/V and conv state: kF32 or kBF16
  int max_sequences = 0;
  int max_context_tokens = 0;  // text tokens a sequence, meta tokens not counted
  int max_batch_tokens = 0;    // tokens a step
  int64_t cache_tokens =
      0;  // text tokens of all sequences together; 0: max_sequences · max_context_tokens
  int64_t prefix_cache_bytes = -1;  // as in KvLayoutOptions
};

}  // namespace hymba
