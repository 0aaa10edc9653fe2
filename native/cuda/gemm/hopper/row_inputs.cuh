// How the few-rows kernel gets its activations: rows as they lie in memory, or what a norm makes of
// others. Of few rows a norm is cheaper worked out by every block than in a launch of its own.
//
// Numerics  The bits of rms_norm and fuse_heads: the sums of device/row_norm.cuh for rows of up to
//           kMaxNormedCols elements, which have a chunk a thread: here a piece of 32 chunks is a
//           warp's, whichever warp takes it, and the pieces are added in order.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/row_norm.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"
#include "cuda/gemm/hopper/operands.h"
#include "cuda/gemm/hopper/plan.h"

namespace hymba::cuda::hopper {

// Those of the operands.
struct StoredRows {
  static constexpr bool kIsStored = true;
  static constexpr int kSums = 0;
};

static_assert(kMaxNormedCols == int64_t{kRowChunk} * kFewRowChunks * kMaxTeamThreads);
static_assert(kPieceCols == kWarp * kRowChunk, "a warp's part of a team's sum");

// A chunk of a row, which a lane holds until the row's sums are there.
template <typename T>
using RowChunk = RowChunks<T, 1>;

template <typename T>
__device__ __forceinline__ RowChunk<T> load_row_chunk(const T* row, int col, int cols) {
  return {{load_chunk<kRowChunk>(row + col, cols - col, true)}};
}

// weight · in / sqrt(mean(in²) + epsilon)
struct RmsNormRows {
  static constexpr bool kIsStored = false;
  static constexpr int kSums = 1;
  Rows<const float> in;
  const float* weight;
  float epsilon;

  explicit RmsNormRows(const RmsNormArgs& args)
      : in(args.in), weight(args.weight.data<float>()), epsilon(args.epsilon) {}

  using Values = RowChunk<float>;

  __device__ __forceinline__ const float* gains(int) const { return weight; }
  __device__ __forceinline__ Values load(int row, int col, int cols) const {
    return load_row_chunk(in[row], col, cols);
  }
  static __device__ __forceinline__ void square_sums(float (&sums)[kSums], const Values& values) {
    sums[0] = values.square_sum();
  }
  __device__ __forceinline__ void normalise(float (&normed)[kRowChunk], const Values& values,
                                            const float (&gains)[kSums][kRowChunk],
                                            const float (&scales)[kSums]) const {
#pragma unroll
    for (int i = 0; i < kRowChunk; ++i)
      normed[i] = normed_value(gains[0][i], element(values.chunks[0], i), scales[0]);
  }
};

// The mean of both kinds of heads, each normalised.
struct FusedHeadsRows {
  static constexpr bool kIsStored = false;
  static constexpr int kSums = 2;
  Rows<const BFloat16> attention;
  Rows<const BFloat16> mamba;
  const float* attention_weight;
  const float* mamba_weight;
  float epsilon;

  explicit FusedHeadsRows(const FuseHeadsArgs& args)
      : attention(args.attention),
        mamba(args.mamba),
        attention_weight(args.attention_weight.data<float>()),
        mamba_weight(args.mamba_weight.data<float>()),
        epsilon(args.epsilon) {}

  struct Values {
    RowChunk<BFloat16> attention, mamba;
  };

  __device__ __forceinline__ const float* gains(int i) const {
    return i == 0 ? attention_weight : mamba_weight;
  }
  __device__ __forceinline__ Values load(int row, int col, int cols) const {
    return {load_row_chunk(attention[row], col, cols), load_row_chunk(mamba[row], col, cols)};
  }
  static __device__ __forceinline__ void square_sums(float (&sums)[kSums], const Values& values) {
    sums[0] = values.attention.square_sum();
    sums[1] = values.mamba.square_sum();
  }
  __device__ __forceinline__ void normalise(float (&normed)[kRowChunk], const Values& values,
                                            const float (&gains)[kSums][kRowChunk],
                                            const float (&scales)[kSums]) const {
#pragma unroll
    for (int i = 0; i < kRowChunk; ++i)
      normed[i] =
          fused_value(normed_value(gains[0][i], element(values.attention.chunks[0], i), scales[0]),
                      normed_value(gains[1][i], element(values.mamba.chunks[0], i), scales[1]));
  }
};

// Waits for the predecessor and lays down columns [first, first + count) of all rows, `row_bytes`
// apart. By kThreads threads, which `sync` lets wait for each other. `gains` is room for
// Input::kSums rows of `count`.
template <int kThreads, typename Input, typename Sync>
__device__ __forceinline__ void bring_rows(const Input& input, const Operands& operands, int first,
                                           int count, char* to, int row_bytes, float* gains,
                                           const Sync& sync) {
  const auto place = [&](int row, int col) {
    return reinterpret_cast<BFloat16*>(to + row * row_bytes) + (col - first);
  };
  if constexpr (Input::kIsStored) {
    const int chunks = count / kRowChunk;
    wait_for_predecessor();
    for (int item = threadIdx.x; item < operands.rows * chunks; item += kThreads) {
      const int row = item / chunks;
      const int col = first + item % chunks * kRowChunk;
      copy_16_async(place(row, col), operands.in + row * operands.in_stride + col);
    }
    commit_copies();
    wait_copies<0>();
  } else {
    // The gains, from HBM, before the predecessor has ended.
    constexpr int kAtOnce = 16 / sizeof(float);
#pragma unroll
    for (int i = 0; i < Input::kSums; ++i)
      for (int col = threadIdx.x * kAtOnce; col < count; col += kThreads * kAtOnce)
        copy_16_async(gains + i * count + col, input.gains(i) + first + col);
    commit_copies();
    wait_for_predecessor();

    constexpr int kWarps = kThreads / kWarp;
    constexpr int kItems = kMaxNormedPieces / kWarps;  // of a warp
    static_assert(kMaxNormedPieces % kWarps == 0);
    __shared__ float piece_sums[kMaxFewRows][kMaxNormedCols / kPieceCols][Input::kSums];
    const int pieces = num_pieces(operands.cols);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    // Of item i: use(row, piece, col)
    const auto with_item = [&](int i, const auto& use) {
      const int item = static_cast<int>(threadIdx.x) / kWarp + i * kWarps;
      const int row = item / pieces;
      const int piece = item % pieces;
      if (row < operands.rows) use(row, piece, piece * kPieceCols + lane * kRowChunk);
    };
    typename Input::Values values[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      with_item(i, [&](int row, int, int col) { values[i] = input.load(row, col, operands.cols); });
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      with_item(i, [&](int row, int piece, int) {
        float sums[Input::kSums];
        input.square_sums(sums, values[i]);
#pragma unroll
        for (int j = 0; j < Input::kSums; ++j) {
          sums[j] = warp_sum(sums[j]);
          if (lane == 0) piece_sums[row][piece][j] = sums[j];
        }
      });
    wait_copies<0>();
    sync();
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      with_item(i, [&](int row, int, int col) {
        if (col < first || col >= first + count) return;
        float scales[Input::kSums], own_gains[Input::kSums][kRowChunk];
#pragma unroll
        for (int j = 0; j < Input::kSums; ++j) {
          float sum = 0.0f;
          for (int piece = 0; piece < pieces; ++piece) sum += piece_sums[row][piece][j];
          scales[j] = rms_scale(sum, operands.cols, input.epsilon);
          unpack(own_gains[j],
                 load_chunk<kRowChunk>(gains + j * count + (col - first), kRowChunk, true));
        }
        float normed[kRowChunk];
        input.normalise(normed, values[i], own_gains, scales);
        store_values(place(row, col), normed, kRowChunk, true);
      });
  }
  sync();
}

}  // namespace hymba::cuda::hopper
