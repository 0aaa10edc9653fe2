// Computes  of each row, by segments of 2048 tokens: the largest raw logit and the sum of
//           exponentials; the logits after bias, penalties, mask and temperature; and the leading
//           token, which of those that the mask allows is the one with the largest
//             adjusted logit                in a greedy row,
//             tempered logit                in a row with filters, whose logits go to the scratch,
//             tempered logit + noise        in any other: the draw.
// Shapes    logits [K, V] fp32, rows of any stride and alignment; segments [K, V/2048]; tempered
//           [K, V] fp32.
// Mapping   grid (K, segments) of 256 threads; thread t has tokens t, t + 256, … of the segment, 8
//           in all, in registers: loads of a warp are consecutive, and all are under way at once.
//           Every thread walks through the whole bias list and adds what falls on its own tokens,
//           so entries for one token are added in their order.
// Shared    one word a warp, twice.
// Numerics  the functions of ops/sampling_math.h and ops/gumbel.h: the same bits as on the CPU.
//           The sum of exponentials: fp32.
// Limits    biases, masks and slots outside their ranges are skipped.
// Cost      4·V bytes a row read (6·V with penalties, V/8 more with a mask, and 4·V written with
//           filters); about 60
//           instructions a token with noise, which then bound it.

#include "cuda/device/log_sum_exp.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/sample/sampling_row.cuh"
#include "ops/gumbel.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = kSegmentTokens / kThreads;

// Steps 1 and 2 of ops/sampling.h, on this thread's tokens `first_token` + i · kThreads.
__device__ void adjust(const SampleParams& params, const SamplingRow& options, int first_token,
                       float (&logits)[kPerThread]) {
  constexpr int kAtOnce = 8;  // loads under way
  const int bias_end = min(options.bias_end, params.num_biases);
  for (int begin = max(options.bias_begin, 0); begin < bias_end; begin += kAtOnce) {
    int tokens[kAtOnce];
#pragma unroll
    for (int entry = 0; entry < kAtOnce; ++entry)
      tokens[entry] = begin + entry < bias_end ? params.bias_tokens[begin + entry] : -1;
#pragma unroll
    for (int entry = 0; entry < kAtOnce; ++entry) {
      const int distance = tokens[entry] - first_token;
      if (tokens[entry] < first_token || distance % kThreads != 0) continue;
      const float bias = params.bias_values[begin + entry];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i)
        if (distance == i * kThreads) logits[i] += bias;
    }
  }
  if (has_penalties(options) && options.state_slot >= 0 && options.state_slot < params.num_slots) {
    const uint16_t* history = params.history + options.state_slot * params.history_stride;
    uint16_t seen[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int token = first_token + i * kThreads;
      seen[i] = token < params.vocab_size ? history[token] : uint16_t{0};
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) logits[i] = penalized_logit(logits[i], seen[i], options);
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) logits[i] = clean_logit(logits[i]);
}

// Bit i: whether the row's mask allows `first_token` + i · kThreads. A warp's tokens share a word.
__device__ unsigned allowed_tokens(const SampleParams& params, const SamplingRow& options,
                                   int first_token) {
  if (options.mask < 0 || options.mask >= params.num_masks) return ~0u;
  const int32_t* mask = params.masks + options.mask * params.masks_stride;
  unsigned allowed = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int token = first_token + i * kThreads;
    if (token < params.vocab_size && mask_allows(mask, token)) allowed |= 1u << i;
  }
  return allowed;
}

__global__ void __launch_bounds__(kThreads) score_tokens_kernel(SampleParams params) {
  __shared__ float sum_slots[kThreads / kWarp];
  __shared__ RankCode code_slots[kThreads / kWarp];
  allow_successor();
  wait_for_predecessor();
  const int row = blockIdx.x;
  const int segment = blockIdx.y;
  const int first_token = segment * kSegmentTokens + threadIdx.x;
  const SamplingRow options = options_of_row(params, row);

  const float* row_logits = params.logits + row * params.logits_stride;
  float logits[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int token = first_token + i * kThreads;
    logits[i] = token < params.vocab_size ? row_logits[token] : -INFINITY;
  }
  float cleaned[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) cleaned[i] = clean_logit(logits[i]);
  LogSumExp part{-INFINITY, 0.0f};
  part.add(cleaned);
  const LogSumExp total = block_total(part, sum_slots);

  adjust(params, options, first_token, logits);
  const unsigned allowed = allowed_tokens(params, options, first_token);
  const bool filtered = has_filters(options);
  const uint64_t key = noise_key(options.seed, options.position);
  RankCode best = kNoToken;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int token = first_token + i * kThreads;
    if (token >= params.vocab_size) break;
    const bool is_allowed = (allowed >> i & 1u) != 0;
    float score = is_allowed ? logits[i] : -INFINITY;
    if (!is_greedy(options)) {
      score = tempered_logit(score, options.temperature);
      if (filtered)
        params.tempered[static_cast<int64_t>(row) * params.vocab_size + token] = score;
      else
        score += gumbel_noise(key, token);
    }
    if (is_allowed) best = first_of(best, rank_code(score, token));
  }
  best = block_reduce(best, code_slots, first_of);
  if (threadIdx.x == 0)
    params.segments[static_cast<int64_t>(row) * params.num_segments + segment] = {
        best, total.largest, total.sum};
}

}  // namespace

void score_tokens(const SampleParams& params, int num_rows, const LaunchContext& context) {
  launch("sample", context, score_tokens_kernel, dim3(num_rows, params.num_segments),
         dim3(kThreads), 0, params);
}

}  // namespace hymba::cuda
