// Largest element, and the logarithm of a sum of exponentials, over one row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ops/sampling_math.h"

namespace hymba::cpu {

// The largest of `value(i)`, i in [0, count); -∞ when there is none. Lanes of their own let the
// loop vectorise.
template <typename Value>
float max_over(int64_t count, const Value& value) {
  constexpr int kLanes = 16;
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float candidate = value(i + lane);
      lanes[lane] = candidate > lanes[lane] ? candidate : lanes[lane];
    }
  float largest = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) largest = std::max(largest, value(i));
  return largest;
}

// log Σ e^logit over the cleaned logits; -∞ when all of them are. The terms are fp32, their sum is
// fp64, in eight lanes (element i in lane i mod 8), which are added in order.
inline double log_sum_exp(const float* logits, int64_t count) {
  const float largest = max_over(count, [&](int64_t i) { return clean_logit(logits[i]); });
  if (largest == -std::numeric_limits<float>::infinity()) return largest;
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] += portable_exp(clean_logit(logits[i + lane]) - largest);
  for (int lane = 0; i + lane < count; ++lane)
    lanes[lane] += portable_exp(clean_logit(logits[i + lane]) - largest);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return largest + std::log(sum);
}

// The log-probability of a logit in a row with that `log_sum_exp`. Logits that are all -∞ have no
// distribution: then -∞.
inline float log_probability(float logit, double log_sum_exp) {
  const float cleaned = clean_logit(logit);
  if (cleaned == -std::numeric_limits<float>::infinity()) return cleaned;
  return static_cast<float>(cleaned - log_sum_exp);
}

}  // namespace hymba::cpu
