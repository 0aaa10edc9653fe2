// Attention of the query rows that one warp holds, over 32 keys at a time, with tensor cores.
//
// Queries, keys and values lie in shared memory as in a page (device/kv_pages.cuh): panels of 64
// elements, a row of 128 bytes in each, its chunks of 8 elements permuted by the row. Panels may
// have any number of rows that is a multiple of 8.
//
// Keys that a row does not see change nothing in it, bit for bit: their probability is 0, the
// maximum stays, and what the row has so far is multiplied by 1 or is 0. So it does not matter
// which rows share a warp, or which keys the warp visits for the sake of its other rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "cuda/device/log2e.h"
#include "cuda/device/panels.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"

namespace hymba::cuda {

inline constexpr int kStepKeys = 32;  // a warp visits together
inline constexpr int kRowTile = 16;   // query rows of an mma

__device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000u); }

// The queries of a warp as mma operands, 16 elements of the head dim a step, read when needed.
template <int kRowTiles, int kPanelRows>
class SharedQueries {
 public:
  __device__ __forceinline__ SharedQueries(const BFloat16* panels, int first_row)
      : rows_(panels, first_row + static_cast<int>(threadIdx.x) % 16,
              static_cast<int>(threadIdx.x) % kWarp / 16) {}

  __device__ __forceinline__ void load(uint32_t (&a)[kRowTiles][4], int step) const {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
      load_matrix_x4(a[tile], rows_.at(tile * kRowTile, step));
  }

 private:
  MatrixRows<kPanelRows> rows_;
};

// The same, kept in registers.
template <int kRowTiles, int kHeadDim>
class HeldQueries {
 public:
  template <int kPanelRows>
  __device__ __forceinline__ explicit HeldQueries(
      const SharedQueries<kRowTiles, kPanelRows>& queries) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) queries.load(held_[step], step);
  }

  __device__ __forceinline__ void load(uint32_t (&a)[kRowTiles][4], int step) const {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[tile][i] = held_[step][tile][i];
  }

 private:
  uint32_t held_[kHeadDim / 16][kRowTiles][4];
};

// Scores of 16·kRowTiles rows against 32 keys, unscaled, as mma leaves them: with g = lane / 4 and
// t = lane % 4, [tile][i] has rows g (elements 0, 1) and g + 8 (2, 3), keys 8·i + 2·t and the next.
template <int kRowTiles>
using Scores = float[kRowTiles][kStepKeys / 8][4];

// Probabilities, rounded to bf16, as mma's operand: 16 keys a step.
template <int kRowTiles>
using Probabilities = uint32_t[kRowTiles][kStepKeys / 16][4];

// The key of a score's element, counted from the first of the 32.
__device__ __forceinline__ int score_key(int i, int element) {
  return 8 * i + static_cast<int>(threadIdx.x) % 4 * 2 + element % 2;
}

// `keys`: from the first of the 32 on.
template <int kHeadDim, int kPanelRows, int kRowTiles, typename Queries>
__device__ __forceinline__ void score_keys(Scores<kRowTiles>& scores, const Queries& queries,
                                           const BFloat16* keys) {
  // Matrices: keys 0-7 with chunks 0 and 1 of a step, then keys 8-15.
  const int lane = threadIdx.x % kWarp;
  const MatrixRows<kPanelRows> rows(keys, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int i = 0; i < kStepKeys / 8; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element) scores[tile][i][element] = 0.0f;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    uint32_t a[kRowTiles][4];
    queries.load(a, step);
#pragma unroll
    for (int pair = 0; pair < kStepKeys / 16; ++pair) {
      uint32_t b[4];
      load_matrix_x4(b, rows.at(pair * 16, step));
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        mma_16x8x16(scores[tile][2 * pair], a[tile], {b[0], b[1]});
        mma_16x8x16(scores[tile][2 * pair + 1], a[tile], {b[2], b[3]});
      }
    }
  }
}

// Hides the keys outside [first, end) from row g (half 0) or g + 8 (half 1) of a tile. By
// selection: a score of a slot that nobody has written may be anything.
__device__ __forceinline__ void hide_keys(float (&scores)[kStepKeys / 8][4], int half, int first,
                                          int end) {
#pragma unroll
  for (int i = 0; i < kStepKeys / 8; ++i)
#pragma unroll
    for (int element = 2 * half; element < 2 * half + 2; ++element) {
      const int key = score_key(i, element);
      if (key < first || key >= end) scores[i][element] = negative_infinity();
    }
}

// What a warp has of its rows so far. A lane's rows and columns are those of mma's result: of tile
// `tile`, rows g and g + 8 (index 0 and 1), of `out[tile][i]` columns 8·i + 2·t and the next.
template <int kRowTiles, int kValueDim>
struct WarpAttention {
  float max[kRowTiles][2];  // of scale · log2 e · score, over the whole row
  float sum[kRowTiles][2];  // of the probabilities in this lane's columns
  float out[kRowTiles][kValueDim / 8][4];

  __device__ __forceinline__ WarpAttention() {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        max[tile][half] = negative_infinity();
        sum[tile][half] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kValueDim / 8; ++i)
#pragma unroll
        for (int element = 0; element < 4; ++element) out[tile][i][element] = 0.0f;
    }
  }

  // Turns scores into probabilities relative to the row's new maximum, and rescales what the row
  // has so far. `scale_log2`, above 0, is what a score is multiplied by to make it an exponent
  // of 2.
  __device__ __forceinline__ void add_scores(Probabilities<kRowTiles>& probabilities,
                                             Scores<kRowTiles>& scores, float scale_log2) {
    bool grown = false;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float step_max = negative_infinity();
#pragma unroll
        for (int i = 0; i < kStepKeys / 8; ++i)
          step_max =
              fmaxf(step_max, fmaxf(scores[tile][i][2 * half], scores[tile][i][2 * half + 1]));
        step_max = fmaxf(step_max, __shfl_xor_sync(kAllLanes, step_max, 1));
        step_max = fmaxf(step_max, __shfl_xor_sync(kAllLanes, step_max, 2));
        const float new_max = fmaxf(max[tile][half], step_max * scale_log2);
        // A row that has seen nothing: every exponent is -∞, and so must stay.
        const float base = new_max == negative_infinity() ? 0.0f : new_max;
        rescale_[tile][half] = exp2_approx(max[tile][half] - base);
        grown |= rescale_[tile][half] != 1.0f;
        max[tile][half] = new_max;
        float step_sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kStepKeys / 8; ++i)
#pragma unroll
          for (int element = 2 * half; element < 2 * half + 2; ++element) {
            const float probability =
                exp2_approx(fmaf(scores[tile][i][element], scale_log2, -base));
            scores[tile][i][element] = probability;
            step_sum += probability;
          }
        sum[tile][half] = fmaf(sum[tile][half], rescale_[tile][half], step_sum);
      }
    if (__any_sync(kAllLanes, grown)) rescale_out();
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int step = 0; step < kStepKeys / 16; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          probabilities[tile][step][i] = pack_bf16x2(scores[tile][2 * step + i / 2][i % 2 * 2],
                                                     scores[tile][2 * step + i / 2][i % 2 * 2 + 1]);
  }

  // `values`: from the first of the 32 on.
  template <int kPanelRows>
  __device__ __forceinline__ void add_values(const Probabilities<kRowTiles>& probabilities,
                                             const BFloat16* values) {
    // Matrices: keys 0-7 and 8-15 of chunk 0 of 16 columns, then of chunk 1.
    const int lane = threadIdx.x % kWarp;
    const MatrixRows<kPanelRows> rows(values, lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < kStepKeys / 16; ++step)
#pragma unroll
      for (int pair = 0; pair < kValueDim / 16; ++pair) {
        uint32_t b[4];
        load_matrix_x4_transposed(b, rows.at(step * 16, pair));
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          mma_16x8x16(out[tile][2 * pair], probabilities[tile][step], {b[0], b[1]});
          mma_16x8x16(out[tile][2 * pair + 1], probabilities[tile][step], {b[2], b[3]});
        }
      }
  }

  // The sum over the whole row, in every lane that has a part of it.
  __device__ __forceinline__ float row_sum(int tile, int half) const {
    float total = sum[tile][half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    return total;
  }

 private:
  __device__ __forceinline__ void rescale_out() {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kValueDim / 8; ++i)
#pragma unroll
        for (int element = 0; element < 4; ++element)
          out[tile][i][element] *= rescale_[tile][element / 2];
  }

  float rescale_[kRowTiles][2];
};

}  // namespace hymba::cuda
