// What a step brings to the device: one block of integers, uploaded in one piece.
//
// The block is laid out for the step at hand, so that a step of few sequences uploads few bytes;
// two steps of the same size find everything in the same place, so that their stages can be
// replayed.
#pragma once

#include "cache/kv_layout.h"
#include "core/arena.h"
#include "ops/ops.h"

namespace hymba {

struct StepSize {
  int64_t tokens = 0;   // T
  int64_t spans = 0;    // S
  int64_t rows = 0;     // K: rows that logits are worked out for
  int64_t sampled = 0;  // D: the first of them, of which tokens are drawn
};

struct StepBlock {
  TensorView token_ids;             // [T]
  TensorView positions;             // [T]
  TensorView token_spans;           // [T]
  TensorView span_offsets;          // [S+1]
  TensorView state_source;          // [S]
  TensorView state_slot;            // [S]
  TensorView is_generated;          // [S]
  TensorView fresh;                 // [S]
  PerPool<TensorView> page_tables;  // [S, columns]
  TensorView logit_rows;            // [K]
  TensorView sampled_slots;         // [D], state slots of the sequences that tokens are drawn for
  TensorView sampling_rows;         // [D, sizeof(SamplingRow)/4]

  BatchView batch() const;
};

// Lays a block out in the arena. The same size gives the same offsets: the host fills a copy of the
// block that is laid out like the device's.
StepBlock lay_out_step(const StepSize& size, const KvLayout& layout, Arena& arena);

// The tokens drawn in a step, in one piece to be downloaded: D as above.
struct DrawnTokens {
  TensorView tokens;        // [D] i32
  TensorView logprobs;      // [D] f32
  TensorView top_tokens;    // [D, kMaxTopLogprobs] i32
  TensorView top_logprobs;  // [D, kMaxTopLogprobs] f32
};

DrawnTokens lay_out_drawn(int64_t sampled, Arena& arena);

}  // namespace hymba
