#include "cpu/token_filter.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ops/sampling_math.h"

namespace hymba::cpu {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t token;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

void keep_top_k(int32_t top_k, std::vector<Candidate>& candidates) {
  if (candidates.size() <= static_cast<size_t>(top_k)) return;
  std::nth_element(candidates.begin(), candidates.begin() + top_k, candidates.end(), ranks_before);
  candidates.resize(top_k);
}

// Keeps the shortest beginning of the ranking whose mass reaches the target. Instead of sorting
// everything it halves the part that holds the end of that beginning: what lies before the part is
// kept and counted, what lies after it is removed.
void keep_top_p(float top_p, float largest, std::vector<Candidate>& candidates) {
  const auto mass = [&](const Candidate& candidate) -> int64_t {
    return top_p_mass(candidate.logit - largest);
  };
  int64_t total = 0;
  for (const Candidate& candidate : candidates) total += mass(candidate);

  const int64_t negligible =
      top_p_negligible(top_p, total, static_cast<int64_t>(candidates.size()));
  std::erase_if(candidates, [&](const Candidate& c) { return mass(c) < negligible; });

  int64_t missing = top_p_target(top_p, total);
  auto begin = candidates.begin();
  auto end = candidates.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, ranks_before);
    int64_t upper = 0;
    for (auto it = begin; it != middle; ++it) upper += mass(*it);
    if (upper >= missing) {
      end = middle;
    } else {
      missing -= upper;
      begin = middle;
    }
  }
  candidates.erase(end, candidates.end());
}

}  // namespace

void remove_unlikely(const SamplingRow& options, float largest, std::span<float> logits) {
  const int64_t vocab_size = static_cast<int64_t>(logits.size());
  if (options.top_k > 0 || options.top_p < 1.0f) {
    static thread_local std::vector<Candidate> candidates;
    candidates.clear();
    for (int64_t i = 0; i < vocab_size; ++i)
      if (logits[i] != kRemoved) candidates.push_back({logits[i], static_cast<int32_t>(i)});
    if (options.top_k > 0) keep_top_k(options.top_k, candidates);
    if (options.top_p < 1.0f) keep_top_p(options.top_p, largest, candidates);
    std::ranges::fill(logits, kRemoved);
    for (const Candidate& kept : candidates) logits[kept.token] = kept.logit;
  }
  if (options.min_p > 0.0f) {
    for (float& logit : logits)
      logit = passes_min_p(logit - largest, options.min_p) ? logit : kRemoved;
  }
}

}  // namespace hymba::cpu
