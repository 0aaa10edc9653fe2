// What the two kernels of `sample` share.
#pragma once

#include <cstdint>

#include "cuda/runtime/launch.h"
#include "cuda/sample/rank_code.h"
#include "ops/sampling.h"

namespace hymba::cuda {

// What `score_tokens` finds out about kSegmentTokens consecutive tokens of one row.
struct SegmentScore {
  uint64_t best;  // rank code of the token that leads, by the score that the row goes by
  float largest;  // of the raw logits, cleaned
  float sum;      // of e^(logit - largest)
};

// Fixed, so that a row's log-probabilities are the same bits whatever shares the step, and small
// enough that one row alone keeps 16 multiprocessors busy.
inline constexpr int kSegmentTokens = 2048;

// SampleArgs on the device, and the scratch.
struct SampleParams {
  const float* logits;
  int64_t logits_stride;
  int vocab_size;
  const int32_t* options;  // SamplingRow, as words
  int64_t options_stride;
  const int32_t* bias_tokens;
  const float* bias_values;
  int num_biases;
  const int32_t* masks;
  int64_t masks_stride;
  int num_masks;
  const uint16_t* history;
  int64_t history_stride;
  int64_t num_slots;

  SegmentScore* segments;  // [K, num_segments]
  int num_segments;
  float* tempered;  // [K, V], of rows with filters: logits after steps 1 to 5 of ops/sampling.h

  int32_t* token;
  float* logprob;
  int32_t* top_tokens;
  int64_t top_tokens_stride;
  float* top_logprobs;
  int64_t top_logprobs_stride;
};

// Steps 1 to 5, and 9 for rows without filters: fills `segments` and `tempered`.
void score_tokens(const SampleParams& params, int num_rows, const LaunchContext& context);

// The rest: the filters, the draw, log-probabilities.
void choose_tokens(const SampleParams& params, int num_rows, const LaunchContext& context);

}  // namespace hymba::cuda
