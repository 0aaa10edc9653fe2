// What goes into a step and what comes out of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cache/sequence_table.h"
#include "ops/sampling.h"

namespace hymba {

enum class LogitsWanted : uint8_t { kNone, kLast, kAll };

// How the token after a span is drawn. `row.position`, `row.state_slot`, the bias range and
// `row.mask` are filled in by the step.
struct SamplingRequest {
  SamplingRow row;
  std::vector<int32_t> bias_tokens;
  std::vector<float> bias_values;
  std::vector<int32_t> mask;  // mask_words(V) words, or empty: all tokens are allowed
};

// The next tokens of one sequence, and what is wanted for them.
struct SpanInput {
  SequenceId sequence = 0;
  // kSampledToken alone: the token that the step before drew for this sequence, whose result need
  // not have been looked at.
  std::vector<int32_t> tokens;
  bool generated = false;
  LogitsWanted logits = LogitsWanted::kNone;
  std::optional<SamplingRequest> sampling;
  // Empty, or one a token: the token whose log-probability after that row is wanted; -1: none.
  std::vector<int32_t> targets;
  // The most probable tokens that are listed beside each target, up to kMaxTopLogprobs.
  int num_target_tops = 0;
};

// The token drawn after a span.
struct SampledToken {
  int32_t token = -1;
  float logprob = 0;
  std::vector<int32_t> top_tokens;  // most probable first
  std::vector<float> top_logprobs;
};

struct SpanOutput {
  std::vector<float> logits;  // [rows, V]: one row for kLast, one a token for kAll
  std::optional<SampledToken> sampled;
  // Of the targets ≥ 0, in order.
  std::vector<float> target_logprobs;
  std::vector<int32_t> target_top_tokens;  // [targets, num_target_tops], most probable first
  std::vector<float> target_top_logprobs;
};

// One activation of a traced pass, as fp32.
struct TraceTensor {
  int layer = -1;
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

}  // namespace hymba
