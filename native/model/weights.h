// The model's parameters in the memory of its backend.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "model/config.h"
#include "model/host_tensors.h"

namespace hymba {

// Matrices stay in their stored precision. Vectors, and what is derived from them, are fp32.
struct LayerWeights {
  TensorView input_norm;  // [C]
  Matrix in_proj;         // [q | k | v | u | z, C]; a consumer's has neither k nor v
  TensorView in_proj_bias;
  TensorView q_norm;          // [H, Dk], the same row for every head unless the norm is per head
  TensorView k_norm;          // [G, Dk]
  TensorView conv_weight;     // [E, W]
  TensorView conv_bias;       // [E]
  Matrix x_proj;              // [R + 2N, E]
  TensorView dt_norm;         // [R]
  TensorView b_norm;          // [N]
  TensorView c_norm;          // [N]
  Matrix dt_proj;             // [E, R]
  TensorView dt_bias;         // [E]
  TensorView a;               // [E, N] = -exp(A_log)
  TensorView d;               // [E]
  TensorView attention_norm;  // [E], pre_avg_layernorm1
  TensorView mamba_norm;      // [E], pre_avg_layernorm2
  Matrix out_proj;            // [C, E]
  TensorView out_proj_bias;
  TensorView mlp_norm;  // [C]
  Matrix gate_up;       // two blocks [F, C]; with relu2 only up
  Matrix down;          // [C, F]
};

struct Weights {
  Matrix embed_tokens;  // [V, C]
  Matrix meta_tokens;   // [M, C]
  std::vector<LayerWeights> layers;
  TensorView final_norm;                      // [C]
  Matrix lm_head;                             // [V, C]; embed_tokens again when tied
  size_t borrowed_bytes = 0;                  // of matrices that stay where the host has them
  std::vector<std::shared_ptr<void>> owners;  // of those
};

using Progress = std::function<void(double fraction)>;

// Imports all tensors, taking backend memory from the arena; with a counting arena only sizes are
// looked at.
Weights import_weights(const ModelConfig& config, const HostTensors& tensors, DType act,
                       Backend& backend, Arena& arena, bool counting, const Progress& progress);

}  // namespace hymba
