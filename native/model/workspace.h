// Memory that a step works in: its metadata, the activations, and the logits of a chunk of rows.
#pragma once

#include "cache/kv_layout.h"
#include "core/arena.h"
#include "model/config.h"

namespace hymba {

// Rows of logits that are worked out at a time. All logits of a long prompt would take gigabytes;
// 128 rows fill a GPU's tiles.
inline constexpr int kLogitRows = 128;

// T = max_batch_tokens, S = max_sequences, R = kLogitRows.
struct Workspace {
  // Metadata of the step, one block of i32 that is uploaded in one piece.
  TensorView token_ids;             // [T]
  TensorView positions;             // [T]
  TensorView token_spans;           // [T]
  TensorView span_offsets;          // [S+1]
  TensorView state_source;          // [S]
  TensorView state_slot;            // [S]
  TensorView is_generated;          // [S]
  TensorView fresh;                 // [S]
  PerPool<TensorView> page_tables;  // [S, columns]

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

  TensorView logit_rows;       // [R] i32
  TensorView logit_residual;   // [R, C] f32
  TensorView logit_normed;     // [R, C] act
  TensorView logits;           // [R, V] f32
  TensorView targets;          // [R] i32
  TensorView target_logprobs;  // [R] f32
  TensorView sampling_rows;    // [R, sizeof(SamplingRow)/4] i32
  TensorView bias_tokens;      // [R·kMaxLogitBias] i32
  TensorView bias_values;      // [R·kMaxLogitBias] f32
  TensorView tokens;           // [R] i32
  TensorView logprobs;         // [R] f32
  TensorView top_tokens;       // [R, kMaxTopLogprobs] i32
  TensorView top_logprobs;     // [R, kMaxTopLogprobs] f32
};

// Entries of logit bias that a row can have. The same limit as the OpenAI API's.
inline constexpr int kMaxLogitBias = 300;

Workspace plan_workspace(const ModelConfig& config, const ModelOptions& options,
                         const KvLayout& layout, Arena& arena);

}  // namespace hymba
