// Memory that a step works in: its metadata, the activations, the logits of a chunk of rows, and
// what the backend needs.
#pragma once

#include "cache/kv_layout.h"
#include "core/arena.h"
#include "model/config.h"
#include "ops/ops.h"

namespace hymba {

// Rows of logits that are worked out at a time. All logits of a long prompt would take gigabytes;
// 128 rows fill a GPU's tiles.
inline constexpr int kLogitRows = 128;

// T = max_batch_tokens, S = max_sequences, R = kLogitRows. Rows of activations start on multiples
// of 16 bytes: matrix products read them in pieces of that size.
struct Workspace {
  TensorView step_block;  // [bytes/4] i32: a StepBlock of at most T tokens and S spans
  TensorView drawn;       // [bytes/4] i32: DrawnTokens of at most S rows
  TensorView scratch;     // [bytes/4] i32, the backend's own

  TensorView cos_sin;  // [positions, Dk] f32, constant after load

  TensorView residual;   // [T, C] f32: the residual stream
  TensorView normed;     // [T, C] act
  TensorView projected;  // [T, rows of in_proj] act: q | k | v | u | z
  TensorView attention;  // [T, E] act
  TensorView conv;       // [T, E] act
  TensorView dt_b_c;     // [T, R + 2N] act
  TensorView delta;      // [T, E] act
  TensorView mamba;      // [T, E] act
  TensorView fused;      // [T, E] act
  TensorView mlp;        // [T, F] act

  TensorView logit_residual;   // [R, C] f32
  TensorView logit_normed;     // [R, C] act
  TensorView logits;           // [R, V] f32
  TensorView targets;          // [R] i32
  TensorView target_logprobs;  // [R] f32
  TensorView top_rows;         // [R, sizeof(SamplingRow)/4] i32
  TensorView tops;             // [bytes/4] i32: DrawnTokens of at most R rows
  TensorView bias_tokens;      // [S·kMaxLogitBias] i32
  TensorView bias_values;      // [S·kMaxLogitBias] f32
  TensorView masks;            // [S, mask_words(V)] i32
};

// Entries of logit bias that a row can have. The same limit as the OpenAI API's.
inline constexpr int kMaxLogitBias = 300;

Workspace plan_workspace(const ModelConfig& config, const ModelOptions& options,
                         const KvLayout& layout, const Backend& backend, Arena& arena);

}  // namespace hymba
