// The arithmetic of sampling, token by token. All backends use these functions, so that from equal
// logits they draw equal tokens. No product meets a sum except in a written-out fma: see
// portable_math.h.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "ops/portable_math.h"
#include "ops/sampling.h"

namespace hymba {

// NaN → -∞, +∞ → the largest finite number. Comparisons with NaN are false, so the order of the
// operands matters.
HYMBA_HD inline float clean_logit(float logit) {
  constexpr float kLowest = -INFINITY;
  const float number = logit > kLowest ? logit : kLowest;
  return number < FLT_MAX ? number : FLT_MAX;
}

HYMBA_HD inline bool has_penalties(const SamplingRow& options) {
  return options.repetition_penalty != 1.0f || options.presence_penalty != 0.0f ||
         options.frequency_penalty != 0.0f;
}

// `logit` after the repetition, presence and frequency penalties; `seen` is the token's entry in
// the history.
HYMBA_HD inline float penalized_logit(float logit, uint16_t seen, const SamplingRow& options) {
  if (seen == 0) return logit;
  const int count = seen & kGeneratedCount;
  const float presence = count > 0 ? options.presence_penalty : 0.0f;
  const float subtracted = std::fma(options.frequency_penalty, static_cast<float>(count), presence);
  const float theta = options.repetition_penalty;
  return logit > 0.0f ? logit / theta - subtracted : std::fma(logit, theta, -subtracted);
}

// Whether a token mask, of mask_words(V) words, allows the token.
HYMBA_HD inline bool mask_allows(const int32_t* mask, int32_t token) {
  return (static_cast<uint32_t>(mask[token / 32]) >> (token % 32) & 1u) != 0;
}

// A true division, not a multiplication by 1/temperature, and bounded because a small temperature
// can carry a large logit away.
HYMBA_HD inline float tempered_logit(float logit, float temperature) {
  return clean_logit(logit / temperature);
}

// Mass of a token that lies `distance` ≤ 0 below the largest tempered logit. Masses are integers so
// that their sum is exact, whatever the order in which it is formed: top-p cuts at the same token
// on every backend.
HYMBA_HD inline int32_t top_p_mass(float distance) {
  return static_cast<int32_t>(std::rint(portable_exp(distance) * 0x1p30f));
}

// The mass that top-p must reach: with an integer, "reaches top_p · total" is an integer
// comparison.
HYMBA_HD inline int64_t top_p_target(float top_p, int64_t total) {
  return static_cast<int64_t>(std::ceil(static_cast<double>(top_p) * static_cast<double>(total)));
}

// All tokens lighter than (1 - top_p) / n of the mass of n tokens weigh less than 1 - top_p
// together, so top-p removes them, and they need no ranking. Of a peaked distribution this leaves a
// handful.
HYMBA_HD inline int64_t top_p_negligible(float top_p, int64_t total, int64_t num_tokens) {
  return static_cast<int64_t>((1.0 - top_p) * static_cast<double>(total) /
                              static_cast<double>(num_tokens));
}

HYMBA_HD inline bool passes_min_p(float distance, float min_p) {
  return portable_exp(distance) >= min_p;
}

}  // namespace hymba
