// Choosing the next token from logits, and log-probabilities of given tokens.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"

namespace hymba {

// What a sequence has seen of each vocabulary entry, for penalties: [slots, V] u16. The top bit
// says that the token stands in the prompt, the other fifteen count (and saturate at) its
// occurrences among the generated tokens.
inline constexpr uint16_t kSeenInPrompt = 0x8000;
inline constexpr uint16_t kGeneratedCount = 0x7fff;

// How one row of logits is turned into a token. The steps, in this order (their arithmetic:
// ops/sampling_math.h):
//
// 1. Biases are added: all in [bias_begin, bias_end) of the bias lists. -∞ forbids a token.
// 2. Repetition penalty θ, on tokens of the prompt and generated ones: l/θ where l > 0, else l·θ.
//    Then, on tokens generated c > 0 times: l - presence_penalty - frequency_penalty·c.
// 3. Tokens that the row's mask does not allow are left out of all that follows.
// 4. temperature < kLowestTemperature: the token is that of the largest l, the lowest id among
//    equals, and the steps end here.
// 5. l / temperature. From here on tokens are ranked: larger l first, lower id first among equals.
// 6. top-k keeps the first top_k, exactly: of equals at the border those with the lowest ids.
// 7. top-p keeps the shortest beginning of the ranking whose mass reaches top_p of the mass that
//    step 6 left, and at least one token. A token's mass is its probability in units of 2^-30 of
//    the largest, rounded.
// 8. min-p keeps the tokens that are at least min_p times as probable as the most probable one.
// 9. The token is argmax over those kept of l + Gumbel noise (ops/gumbel.h), the lowest id among
//    equals: an exact draw from their softmax. The noise is a function of (seed, position of the
//    token being drawn, token id): the same seed gives the same text whatever shares the batch.
//
// A NaN logit counts as -∞ and an infinite one as the largest finite number. A token that ends at
// -∞ is drawn only when all do: it is the first one that the mask allows then.
struct SamplingRow {
  float temperature = 1;         // ≥ 0
  int32_t top_k = 0;             // 0: off
  float top_p = 1;               // (0, 1]; 1: off
  float min_p = 0;               // [0, 1); 0: off
  float repetition_penalty = 1;  // > 0; 1: off; prompt and generated tokens
  float presence_penalty = 0;    // generated tokens
  float frequency_penalty = 0;   // generated tokens
  int32_t num_top_logprobs = 0;  // ≤ kMaxTopLogprobs
  uint64_t seed = 0;
  int32_t position = 0;    // of the token being drawn
  int32_t state_slot = 0;  // row of the history; not read when all three penalties are off
  int32_t bias_begin = 0;  // range of the bias lists
  int32_t bias_end = 0;
  int32_t mask = -1;       // row of the masks; -1: all tokens are allowed
  int32_t alignment_ = 0;  // of the seed, where there would be padding
};
static_assert(sizeof(SamplingRow) == 64, "crosses into device memory as 16 words, without padding");

// Words of a token mask: token t is allowed when bit t % 32 of word t / 32 is set. At least one is.
constexpr int64_t mask_words(int64_t vocab_size) { return (vocab_size + 31) / 32; }

inline constexpr int kMaxTopLogprobs = 20;

// Below this a draw is greedy: logit/temperature would be so large that rounding drowns the noise,
// or overflows.
inline constexpr float kLowestTemperature = 1e-4f;

// history[slot] ← history[slot] with the tokens of each span counted. Meta tokens (ids below 0) are
// not counted. No two spans share a slot.
struct CountTokensArgs {
  TensorView token_ids;     // [T] i32
  TensorView span_offsets;  // [S+1] i32
  TensorView state_slot;    // [S] i32
  TensorView is_generated;  // [S] i32: 1 when the span's tokens were generated, 0 for a prompt
  TensorView fresh;         // [S] i32: 1 when the slot starts a new sequence: forget what it held
  TensorView history;       // [slots, V] u16
};

// Log-probabilities are those of the raw logits' softmax: before biases, penalties, mask and
// temperature, so that tokens which a mask forbids are listed too.
// Tokens at -∞ are not listed among the top; unused places hold token -1 and -∞.
struct SampleArgs {
  TensorView logits;        // [K, V] f32
  TensorView rows;          // [K, sizeof(SamplingRow)/4] i32: K SamplingRow
  TensorView bias_tokens;   // [B] i32
  TensorView bias_values;   // [B] f32, finite or -∞
  TensorView masks;         // [M, mask_words(V)] i32, or empty
  TensorView history;       // [slots, V] u16
  TensorView token;         // [K] i32
  TensorView logprob;       // [K] f32, of the token; -∞ when the logits gave it none
  TensorView top_tokens;    // [K, kMaxTopLogprobs] i32, most probable first, lowest id among equals
  TensorView top_logprobs;  // [K, kMaxTopLogprobs] f32
};

// logprob[i] = log softmax(logits[i])[tokens[i]]; NaN and infinite logits as in SamplingRow.
struct TokenLogprobsArgs {
  TensorView logits;   // [K, V] f32
  TensorView tokens;   // [K] i32
  TensorView logprob;  // [K] f32
};

}  // namespace hymba
