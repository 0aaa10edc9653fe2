// Computes  the next token of each row, its log-probability, and the most probable tokens: the
//           steps of ops/sampling.h.
// Shapes    logits [K, V], history [slots, V] u16, results [K] and [K, kMaxTopLogprobs].
// Mapping   one task a row.
// Numerics  logits and noise in fp32, by the functions that all backends share
//           (ops/sampling_math.h, ops/gumbel.h); log-probabilities as in token_logprobs.cpp.

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "cpu/log_sum_exp.h"
#include "cpu/stages.h"
#include "cpu/token_filter.h"
#include "ops/gumbel.h"
#include "ops/sampling_math.h"

namespace hymba::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

SamplingRow options_of_row(const SampleArgs& args, int64_t row) {
  SamplingRow options;
  std::memcpy(static_cast<void*>(&options), args.rows.row<int32_t>(row), sizeof options);
  return options;
}

// Null when all tokens are allowed.
const int32_t* mask_of(const SampleArgs& args, const SamplingRow& options) {
  if (options.mask < 0) return nullptr;
  check(!args.masks.empty() && options.mask < args.masks.rows(), "sample: mask ", options.mask,
        " of ", args.masks.empty() ? 0 : args.masks.rows());
  return args.masks.row<int32_t>(options.mask);
}

// The lowest id that the mask allows.
int32_t first_allowed(const int32_t* mask, int64_t vocab_size) {
  int32_t token = 0;
  while (mask != nullptr && token < vocab_size && !mask_allows(mask, token)) ++token;
  return token < vocab_size ? token : 0;
}

// Steps 1 to 3: biases, penalties and the mask.
void adjust(const SampleArgs& args, const SamplingRow& options, std::span<float> logits) {
  const int64_t vocab_size = static_cast<int64_t>(logits.size());
  for (int32_t i = options.bias_begin; i < options.bias_end; ++i) {
    const int32_t token = args.bias_tokens.data<int32_t>()[i];
    check(token >= 0 && token < vocab_size, "sample: bias of token ", token, " of ", vocab_size);
    logits[token] += args.bias_values.data<float>()[i];
  }
  if (has_penalties(options)) {
    check(options.state_slot >= 0 && options.state_slot < args.history.rows(), "sample: slot ",
          options.state_slot, " of ", args.history.rows());
    const uint16_t* seen = args.history.row<uint16_t>(options.state_slot);
    for (int64_t i = 0; i < vocab_size; ++i)
      logits[i] = penalized_logit(logits[i], seen[i], options);
  }
  for (float& logit : logits) logit = clean_logit(logit);
  if (const int32_t* mask = mask_of(args, options)) {
    for (int64_t i = 0; i < vocab_size; ++i)
      if (!mask_allows(mask, static_cast<int32_t>(i))) logits[i] = kNever;
  }
}

float largest_of(std::span<const float> values) {
  return max_over(static_cast<int64_t>(values.size()), [&](int64_t i) { return values[i]; });
}

// The lowest id among those of the largest value.
int32_t argmax(std::span<const float> values) {
  return static_cast<int32_t>(std::ranges::find(values, largest_of(values)) - values.begin());
}

// Steps 4 to 9, on adjusted logits, which are overwritten.
int32_t choose(const SamplingRow& options, const int32_t* mask, std::span<float> logits) {
  const bool is_greedy = options.temperature < kLowestTemperature;
  if (!is_greedy)
    for (float& logit : logits) logit = tempered_logit(logit, options.temperature);
  const float largest = largest_of(logits);
  // Also when the temperature makes it so.
  if (largest == kNever) return first_allowed(mask, static_cast<int64_t>(logits.size()));
  if (is_greedy) return argmax(logits);
  remove_unlikely(options, largest, logits);
  const uint64_t key = noise_key(options.seed, options.position);
  for (size_t i = 0; i < logits.size(); ++i)
    logits[i] += gumbel_noise(key, static_cast<int32_t>(i));
  return argmax(logits);
}

// The `count` largest logits, largest first. Insertion into a short sorted list: almost every logit
// is turned away by the first comparison. One that equals the last of the list is too, which leaves
// the lowest ids.
void list_top(const float* logits, int64_t vocab_size, int count, double log_sum_exp,
              int32_t* top_tokens, float* top_logprobs) {
  float top_logits[kMaxTopLogprobs];
  std::fill_n(top_logits, kMaxTopLogprobs, kNever);
  std::fill_n(top_tokens, kMaxTopLogprobs, -1);
  for (int64_t i = 0; count > 0 && i < vocab_size; ++i) {
    const float logit = clean_logit(logits[i]);
    if (logit <= top_logits[count - 1]) continue;
    int place = count - 1;
    for (; place > 0 && top_logits[place - 1] < logit; --place) {
      top_logits[place] = top_logits[place - 1];
      top_tokens[place] = top_tokens[place - 1];
    }
    top_logits[place] = logit;
    top_tokens[place] = static_cast<int32_t>(i);
  }
  for (int place = 0; place < kMaxTopLogprobs; ++place) {
    top_logprobs[place] = log_probability(top_logits[place], log_sum_exp);
    if (top_logprobs[place] == kNever) top_tokens[place] = -1;
  }
}

void sample_row(const SampleArgs& args, int64_t row) {
  const SamplingRow options = options_of_row(args, row);
  const float* logits = args.logits.row<float>(row);
  const int64_t vocab_size = args.logits.dim(1);
  check(options.num_top_logprobs >= 0 && options.num_top_logprobs <= kMaxTopLogprobs,
        "sample: ", options.num_top_logprobs, " top log-probabilities");

  static thread_local std::vector<float> adjusted;
  adjusted.assign(logits, logits + vocab_size);
  adjust(args, options, adjusted);
  const int32_t token = choose(options, mask_of(args, options), adjusted);

  const double normalizer = log_sum_exp(logits, vocab_size);
  args.token.data<int32_t>()[row] = token;
  args.logprob.data<float>()[row] = log_probability(logits[token], normalizer);
  list_top(logits, vocab_size, options.num_top_logprobs, normalizer,
           args.top_tokens.row<int32_t>(row), args.top_logprobs.row<float>(row));
}

}  // namespace

void sample(const SampleArgs& args, ThreadPool& pool) {
  pool.parallel_for(args.logits.rows(), [&](int64_t row) { sample_row(args, row); });
}

}  // namespace hymba::cpu
