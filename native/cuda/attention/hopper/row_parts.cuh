// What a thread holds of the 64 rows of its warpgroup, and the products of these with pages.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attention/hopper/span_config.cuh"
#include "cuda/attention/span_tiles.cuh"
#include "cuda/attention/warp_attention.cuh"
#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda::hopper {

// The queries of a warp's 16 rows as the products take them; zeroes from num_rows on.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(uint32_t (&queries)[kHeadDim / 16][4],
                                             const Rows<const BFloat16>& q, const SpanTile& tile,
                                             int first_row, int first_head, int group, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + lane / 4;
    const bool valid = row < tile.num_tokens * group;
    const BFloat16* const elements = q[tile.first_token + (valid ? row / group : 0)] +
                                     (first_head + (valid ? row % group : 0)) * kHeadDim +
                                     lane % 4 * 2;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        queries[step][2 * i + half] =
            valid ? *reinterpret_cast<const uint32_t*>(elements + step * 16 + i * 8) : 0;
  }
}

// A thread's share of the scores of 64 rows against a page, or of their sums over values: with
// g = lane / 4 and t = lane % 4, [i] has rows g (elements 0, 1) and g + 8 (2, 3) of the warp,
// columns 8·i + 2·t and the next.
template <int kCols>
using RowPart = float[kCols / 8][4];

// What a thread knows of its rows g and g + 8.
struct RowSums {
  float max[2] = {negative_infinity(), negative_infinity()};  // of scale · log2 e · score
  float sum[2] = {0.0f, 0.0f};  // of the probabilities in this thread's columns
  float rescale[2];  // what the sums over values of earlier pages are to be multiplied by

  // Turns the scores of a page into probabilities relative to the row's new maximum. As
  // WarpAttention::add_scores.
  __device__ __forceinline__ void add(RowPart<kPageTokens>& scores, float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float page_max = negative_infinity();
#pragma unroll
      for (int i = 0; i < kPageTokens / 8; ++i)
        page_max = fmaxf(page_max, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
      page_max = fmaxf(page_max, __shfl_xor_sync(kAllLanes, page_max, 1));
      page_max = fmaxf(page_max, __shfl_xor_sync(kAllLanes, page_max, 2));
      const float new_max = fmaxf(max[half], page_max * scale_log2);
      // A row that has seen nothing: every exponent is -∞, and so must stay.
      const float base = new_max == negative_infinity() ? 0.0f : new_max;
      rescale[half] = exp2_approx(max[half] - base);
      max[half] = new_max;
      float page_sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kPageTokens / 8; ++i)
#pragma unroll
        for (int element = 2 * half; element < 2 * half + 2; ++element) {
          scores[i][element] = exp2_approx(fmaf(scores[i][element], scale_log2, -base));
          page_sum += scores[i][element];
        }
      sum[half] = fmaf(sum[half], rescale[half], page_sum);
    }
  }

  template <int kCols>
  __device__ __forceinline__ void rescale_values(RowPart<kCols>& values) const {
    if (!__any_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kCols / 8; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element) values[i][element] *= rescale[element / 2];
  }

  // The sum over the whole row, in every thread that has a part of it.
  __device__ __forceinline__ float row_sum(int half) const {
    float total = sum[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    return total;
  }
};

__device__ __forceinline__ void pack_probabilities(uint32_t (&probabilities)[kPageTokens / 16][4],
                                                   const RowPart<kPageTokens>& scores) {
#pragma unroll
  for (int step = 0; step < kPageTokens / 16; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      probabilities[step][i] =
          pack_bf16x2(scores[2 * step + i / 2][i % 2 * 2], scores[2 * step + i / 2][i % 2 * 2 + 1]);
}

template <int kCols>
__device__ __forceinline__ float (&flat(RowPart<kCols>& part))[kCols / 2] {
  return reinterpret_cast<float(&)[kCols / 2]>(part);
}

// The products of a warpgroup with the pages of a ring.
template <typename Config>
class PageProducts {
 public:
  __device__ __forceinline__ explicit PageProducts(const char* ring)
      : first_keys_(describe_operand(ring, 8 * Config::kPanelRowBytes)),
        first_values_(describe_transposed(ring + Config::kKeyPanels * Config::kPanelBytes,
                                          Config::kPanelBytes)) {}

  // scores = queries · Kᵀ
  __device__ __forceinline__ void score(RowPart<kPageTokens>& scores,
                                        const uint32_t (&queries)[Config::kHeadDim / 16][4],
                                        int stage) const {
    constexpr int kStepBytes = 16 * int{sizeof(BFloat16)};
    const uint64_t keys = first_keys_ + static_cast<uint32_t>(stage * kStageUnits);
    multiply_held_async<kPageTokens, false, false>(flat<kPageTokens>(scores), queries[0], keys);
#pragma unroll
    for (int step = 1; step < Config::kHeadDim / 16; ++step)
      multiply_held_async<kPageTokens, true, false>(
          flat<kPageTokens>(scores), queries[step],
          keys + (step / 4 * Config::kPanelBytes + step % 4 * kStepBytes) / kOperandUnit);
    commit_products();
  }

  // values += probabilities · V
  __device__ __forceinline__ void add_values(RowPart<Config::kValueDim>& values,
                                             const uint32_t (&probabilities)[kPageTokens / 16][4],
                                             int stage) const {
    constexpr int kStepBytes = 16 * Config::kPanelRowBytes;
    const uint64_t page = first_values_ + static_cast<uint32_t>(stage * kStageUnits);
#pragma unroll
    for (int step = 0; step < kPageTokens / 16; ++step)
      multiply_held_async<Config::kValueDim, true, true>(flat<Config::kValueDim>(values),
                                                         probabilities[step],
                                                         page + step * kStepBytes / kOperandUnit);
    commit_products();
  }

 private:
  static constexpr int kStageUnits = Config::kStageBytes / kOperandUnit;

  uint64_t first_keys_;
  uint64_t first_values_;
};

}  // namespace hymba::cuda::hopper
