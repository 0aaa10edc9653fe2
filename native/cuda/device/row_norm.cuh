// The mapping that RMSNorm and its relatives share: a team of threads a row, the row in registers.
//
// A team is blockDim.x threads, whole warps; blockDim.y teams share a block. Thread i of a team
// holds the chunks i, i + blockDim.x, … of 8 elements, so that with as many threads as chunks a row
// is read in one wave of 16-byte accesses. The mapping, and with it the order of the sums, depends
// on the width of a row alone: not on the number of rows, nor on how a row is aligned.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/device/chunk.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/runtime/launch.h"

namespace hymba::cuda {

inline constexpr int kRowChunk = 8;
inline constexpr int kMaxTeamThreads = 512;
// Chunks a thread in the two instances of a kernel: one, for rows of up to 4,096 elements; four, up
// to 16,384.
inline constexpr int kFewRowChunks = 1;
inline constexpr int kManyRowChunks = 4;

struct RowTeams {
  dim3 block;
  int chunks_per_thread;

  dim3 grid(int64_t num_rows) const {
    return dim3(static_cast<unsigned>(ceil_div<int64_t>(num_rows, block.y)));
  }
};

inline RowTeams row_teams(const char* stage, int64_t width) {
  constexpr int64_t kMaxWidth = int64_t{kRowChunk} * kManyRowChunks * kMaxTeamThreads;
  if (width > kMaxWidth)
    fail(ErrorCode::kModelUnsupported, stage, ": rows of ", width, " elements, at most ", kMaxWidth,
         " on CUDA");
  // Narrow rows share a block, so that it is not a single warp.
  constexpr int kMinBlockThreads = 128;
  const int64_t chunks = ceil_div<int64_t>(width, kRowChunk);
  const int per_thread = chunks <= kMaxTeamThreads ? kFewRowChunks : kManyRowChunks;
  const auto threads = static_cast<int>(ceil_div<int64_t>(chunks, per_thread * kWarp) * kWarp);
  return {dim3(threads, std::max(1, kMinBlockThreads / threads)), per_thread};
}

// First element of chunk i of this thread.
__device__ __forceinline__ int row_element(int i) {
  return (i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kRowChunk;
}

template <typename T, int kChunks>
struct RowChunks {
  Chunk<T, kRowChunk> chunks[kChunks];

  __device__ __forceinline__ void load(const T* row, int width, bool aligned) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) load(i, row, width, aligned);
  }
  __device__ __forceinline__ void load(int i, const T* row, int width, bool aligned) {
    chunks[i] = load_chunk<kRowChunk>(row + row_element(i), width - row_element(i), aligned);
  }

  // This thread's part of Σ row².
  __device__ __forceinline__ float square_sum() const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
#pragma unroll
      for (int j = 0; j < kRowChunk; ++j) {
        const float value = element(chunks[i], j);
        sum = fmaf(value, value, sum);
      }
    return sum;
  }
};

// Shared memory of team_sums: a slot for each value of each warp.
template <int kValues>
using TeamSlots = float[kMaxTeamThreads / kWarp][kValues];

// Every thread of a team gets the sums of the team's values. All threads of the block call it,
// once.
template <int kValues>
__device__ __forceinline__ void team_sums(float (&values)[kValues], TeamSlots<kValues>& slots) {
#pragma unroll
  for (int v = 0; v < kValues; ++v) values[v] = warp_sum(values[v]);
  const int warps = blockDim.x / kWarp;
  if (warps == 1) return;
  const int first = threadIdx.y * warps;
  if (threadIdx.x % kWarp == 0)
#pragma unroll
    for (int v = 0; v < kValues; ++v) slots[first + threadIdx.x / kWarp][v] = values[v];
  __syncthreads();
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    values[v] = slots[first][v];
    for (int i = 1; i < warps; ++i) values[v] += slots[first + i][v];
  }
}

__device__ __forceinline__ float rms_scale(float square_sum, int width, float epsilon) {
  return rsqrtf(square_sum / static_cast<float>(width) + epsilon);
}

// One element, and the mean of two kinds of heads.
__device__ __forceinline__ float normed_value(float weight, float value, float scale) {
  return weight * (value * scale);
}
__device__ __forceinline__ float fused_value(float attention, float mamba) {
  return 0.5f * __fadd_rn(attention, mamba);
}

}  // namespace hymba::cuda
