// Computes  from what `score_tokens` left: the token of each row, after top-k, top-p and min-p
// where
//           asked for, its log-probability, and the most probable tokens.
// Shapes    segments [K, V/2048]; tempered and logits [K, V] fp32; results [K] and
//           [K, kMaxTopLogprobs].
// Mapping   one block of 1024 threads a row. The first warp puts the segments together; without
//           filters and lists that is all.
// Shared    48 KB: a histogram of 1024 bins (12 KB), a list of 4096 candidates (32 KB).
// Numerics  selection is exact: it works on integers (sample/rank_code.h, and masses, whose sums do
//           not depend on their order). The token has the same bits as on the CPU;
//           log-probabilities are within 1e-5.
// Limits    V ≤ 2^18; at most kMaxTopLogprobs are listed.
// Cost      16 bytes a segment; with filters or lists 2 to 4 passes over 4·V bytes, which lie in
// the
//           L2, and a few rounds of the selection on what is left: latency.

#include <cfloat>

#include "cuda/device/log_sum_exp.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/sample/sampling_row.cuh"
#include "cuda/sample/select.cuh"
#include "ops/gumbel.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = kSelectThreads;

// The last code of a token above -∞.
__device__ __forceinline__ RankCode last_candidate() { return rank_code(-FLT_MAX, kMaxToken); }

// The segments of one row together, by one warp. The result is that of all lanes.
__device__ SegmentScore merge_segments(const SegmentScore* segments, int num_segments) {
  const int lane = threadIdx.x % kWarp;
  RankCode best = kNoToken;
  float largest = -INFINITY;
  for (int i = lane; i < num_segments; i += kWarp) {
    best = first_of(best, segments[i].best);
    largest = fmaxf(largest, segments[i].largest);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    best = first_of(best, __shfl_xor_sync(kAllLanes, best, offset));
  largest = warp_max(largest);
  float sum = 0.0f;
  for (int i = lane; i < num_segments; i += kWarp)
    sum += LogSumExp{segments[i].largest, segments[i].sum}.sum_from(largest);
  return {best, largest, warp_sum(sum)};
}

// Steps 6 to 9 of ops/sampling.h. `leader` is the code of the first token of the ranking.
__device__ int draw_filtered(const SamplingRow& options, const float* tempered, int vocab_size,
                             RankCode leader, Selection& shared, uint64_t* slots) {
  const float largest = logit_of(leader);
  if (largest == -INFINITY) return token_of(leader);
  Candidates candidates{tempered, vocab_size, nullptr, 0};
  RankCode cut = last_candidate();  // what comes after it is removed
  if (options.top_k > 0 && options.top_k < vocab_size)
    cut = find_first(candidates, leader, cut, options.top_k, shared);

  const bool has_top_p = options.top_p < 1.0f;
  const auto mass = [&](RankCode code) { return top_p_mass(logit_of(code) - largest); };
  int64_t negligible = 0;
  if (has_top_p) {
    int64_t total = 0;
    int64_t count = 0;
    for_each(candidates, [&](RankCode code) {
      if (code > cut) return;
      total += mass(code);
      ++count;
    });
    total = static_cast<int64_t>(block_sum(static_cast<uint64_t>(total), slots));
    count = static_cast<int64_t>(block_sum(static_cast<uint64_t>(count), slots));
    negligible = top_p_negligible(options.top_p, total, count);
    const auto weight = [&](RankCode code) {
      const int32_t own = code <= cut ? mass(code) : -1;
      return own >= negligible ? own : -1;
    };
    if (candidates.list == nullptr)
      shorten(
          candidates, [&](RankCode code) { return weight(code) >= 0; }, shared);
    const int64_t target = top_p_target(options.top_p, total);
    cut = find_cut(candidates, leader, cut, target > 1 ? target : 1, weight, shared);
  }

  const uint64_t key = noise_key(options.seed, options.position);
  RankCode drawn = kNoToken;
  for_each(candidates, [&](RankCode code) {
    if (code > cut) return;
    const float logit = logit_of(code);
    if (has_top_p && mass(code) < negligible) return;
    if (options.min_p > 0.0f && !passes_min_p(logit - largest, options.min_p)) return;
    const int token = token_of(code);
    drawn = first_of(drawn, rank_code(logit + gumbel_noise(key, token), token));
  });
  drawn = block_reduce(drawn, slots, first_of);
  return drawn == kNoToken ? 0 : token_of(drawn);
}

// The `count` most probable tokens, in order; the other places hold token -1 and -∞.
__device__ void list_top(const float* logits, int vocab_size, int count, float largest,
                         double log_sum_exp, int32_t* top_tokens, float* top_logprobs,
                         Selection& shared) {
  __shared__ RankCode unsorted[kMaxTopLogprobs];
  __shared__ RankCode sorted[kMaxTopLogprobs];
  __shared__ int num_found;
  if (threadIdx.x < kMaxTopLogprobs) sorted[threadIdx.x] = kNoToken;
  if (threadIdx.x == 0) num_found = 0;
  if (count > 0 && largest > -INFINITY) {
    Candidates candidates{logits, vocab_size, nullptr, 0};
    const RankCode cut =
        find_first(candidates, rank_code(largest, 0), last_candidate(), count, shared);
    for_each(candidates, [&](RankCode code) {
      if (code <= cut) unsorted[atomicAdd(&num_found, 1)] = code;
    });
    __syncthreads();
    const int own = threadIdx.x;
    if (own < num_found) {
      int place = 0;
      for (int i = 0; i < num_found; ++i) place += unsorted[i] < unsorted[own];
      sorted[place] = unsorted[own];
    }
    __syncthreads();
  }
  if (threadIdx.x >= kMaxTopLogprobs) return;
  const RankCode code = sorted[threadIdx.x];
  const float logprob = code == kNoToken ? -INFINITY : log_probability(logit_of(code), log_sum_exp);
  top_tokens[threadIdx.x] = logprob == -INFINITY ? -1 : token_of(code);
  top_logprobs[threadIdx.x] = logprob;
}

__global__ void __launch_bounds__(kThreads) choose_tokens_kernel(SampleParams params) {
  __shared__ Selection shared;
  __shared__ uint64_t slots[kThreads / kWarp];
  __shared__ SegmentScore merged;
  allow_successor();
  wait_for_predecessor();
  const int row = blockIdx.x;
  const SamplingRow options = options_of_row(params, row);
  const float* logits = params.logits + row * params.logits_stride;
  if (threadIdx.x < kWarp) {
    const int64_t first = static_cast<int64_t>(row) * params.num_segments;
    const SegmentScore score = merge_segments(params.segments + first, params.num_segments);
    if (threadIdx.x == 0) merged = score;
  }
  __syncthreads();

  // Nothing is ranked when a mask allows nothing, which is the caller's mistake.
  int token = merged.best == kNoToken ? 0 : token_of(merged.best);
  if (merged.best != kNoToken && !is_greedy(options) && has_filters(options))
    token = draw_filtered(options, params.tempered + static_cast<int64_t>(row) * params.vocab_size,
                          params.vocab_size, merged.best, shared, slots);
  const double log_sum_exp = LogSumExp{merged.largest, merged.sum}.value();
  if (threadIdx.x == 0) {
    params.token[row] = token;
    params.logprob[row] = log_probability(logits[token], log_sum_exp);
  }
  const int num_listed = max(0, min(options.num_top_logprobs, kMaxTopLogprobs));
  list_top(logits, params.vocab_size, num_listed, merged.largest, log_sum_exp,
           params.top_tokens + row * params.top_tokens_stride,
           params.top_logprobs + row * params.top_logprobs_stride, shared);
}

}  // namespace

void choose_tokens(const SampleParams& params, int num_rows, const LaunchContext& context) {
  launch("sample", context, choose_tokens_kernel, dim3(num_rows), dim3(kThreads), 0, params);
}

}  // namespace hymba::cuda
