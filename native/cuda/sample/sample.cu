// Computes  the next token of each row, its log-probability, and the most probable tokens: the
//           steps of ops/sampling.h, in two kernels. `score_tokens` does what can be done token by
//           token, spread over the device; `choose_tokens`, one block a row, what needs the whole
//           row. A greedy row, and one without filters, is decided by the first.
// Shapes    logits [K, V], history [slots, V] u16, results [K] and [K, kMaxTopLogprobs].
// Limits    V ≤ 2^18.

#include "cuda/sample/sample.h"

#include "cuda/sample/params.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

int64_t segments_of(int64_t vocab_size) { return ceil_div(vocab_size, kSegmentTokens); }

// The segments' scores, then the rows of adjusted logits.
int64_t scratch_bytes(int64_t num_rows, int64_t vocab_size) {
  return num_rows * (segments_of(vocab_size) * static_cast<int64_t>(sizeof(SegmentScore)) +
                     vocab_size * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

size_t sample_scratch_bytes(const StageLimits& limits) {
  return static_cast<size_t>(scratch_bytes(limits.max_logit_rows, limits.vocab_size));
}

void sample(const SampleArgs& args, const LaunchContext& context) {
  const int64_t num_rows = args.logits.rows();
  const int64_t vocab_size = args.logits.dim(1);
  if (vocab_size > kMaxToken + 1)
    fail(ErrorCode::kModelUnsupported, "sample: a vocabulary of ", vocab_size,
         " tokens; the CUDA backend samples from at most ", kMaxToken + 1);
  const int64_t num_segments = segments_of(vocab_size);
  auto* segments = reinterpret_cast<SegmentScore*>(
      context.scratch_for<char>(scratch_bytes(num_rows, vocab_size), "sample"));
  const SampleParams params{
      .logits = args.logits.data<float>(),
      .logits_stride = args.logits.row_stride(),
      .vocab_size = static_cast<int>(vocab_size),
      .options = args.rows.data<int32_t>(),
      .options_stride = args.rows.row_stride(),
      .bias_tokens = args.bias_tokens.data<int32_t>(),
      .bias_values = args.bias_values.data<float>(),
      .num_biases = args.bias_tokens.empty() ? 0 : static_cast<int>(args.bias_tokens.rows()),
      .masks = args.masks.data<int32_t>(),
      .masks_stride = args.masks.empty() ? 0 : args.masks.row_stride(),
      .num_masks = args.masks.empty() ? 0 : static_cast<int>(args.masks.rows()),
      .history = args.history.data<uint16_t>(),
      .history_stride = args.history.row_stride(),
      .num_slots = args.history.rows(),
      .segments = segments,
      .num_segments = static_cast<int>(num_segments),
      .tempered = reinterpret_cast<float*>(segments + num_rows * num_segments),
      .token = args.token.data<int32_t>(),
      .logprob = args.logprob.data<float>(),
      .top_tokens = args.top_tokens.data<int32_t>(),
      .top_tokens_stride = args.top_tokens.row_stride(),
      .top_logprobs = args.top_logprobs.data<float>(),
      .top_logprobs_stride = args.top_logprobs.row_stride(),
  };
  score_tokens(params, static_cast<int>(num_rows), context);
  choose_tokens(params, static_cast<int>(num_rows), context);
}

}  // namespace hymba::cuda
