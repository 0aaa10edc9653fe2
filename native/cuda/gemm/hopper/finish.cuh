// From sums to what the epilogue makes of them: from the accumulators of a matrix instruction, or
// from those of all blocks of a cluster.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/hopper/operands.h"

namespace hymba::cuda::hopper {

template <typename Epilogue>
__device__ __forceinline__ float2 addend_of(const Epilogue& epilogue, int row, int col) {
  if constexpr (Epilogue::kAdds) return epilogue.addend(row, col);
  return {};
}

// Four lanes t = 0 to 3 hold part t of each of four chunks: afterwards lane t holds chunk t.
__device__ __forceinline__ void gather_chunks(uint32_t (&parts)[4], int t) {
#pragma unroll
  for (int stride = 1; stride <= 2; stride *= 2) {
    const bool upper = (t & stride) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & stride) continue;
      const uint32_t sent = upper ? parts[i] : parts[i + stride];
      const uint32_t received = __shfl_xor_sync(kAllLanes, sent, stride);
      (upper ? parts[i] : parts[i + stride]) = received;
    }
  }
}

// sums[j][0, 1] belong to row `row` and the columns 8j + 2t, +1 of kGroups groups of 8 from
// `first_group` on, sums[j][2, 3] to row + 8. Of the groups, `num_groups` exist. Called by whole
// warps, for the same groups.
template <int kGroups, typename Epilogue>
__device__ __forceinline__ void finish_sums(const float (&sums)[kGroups][4], int first_group,
                                            int num_groups, int row, int num_rows, int t,
                                            const Epilogue& epilogue) {
  constexpr int kBlocks = Epilogue::kPaired ? 2 : 1;
  constexpr int kOutGroups = kGroups / kBlocks;
  const int first_out = first_group / kBlocks;
  const int num_out = num_groups / kBlocks;
  const auto column = [&](int group) { return (first_out + group) * kBlockRows + 2 * t; };
  // Four groups of bf16 are stored by 16 bytes a lane.
  constexpr int kChunkGroups = 4;
  constexpr bool kIsNarrow = std::is_same_v<std::decay_t<decltype(*epilogue.out.data)>, BFloat16>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int out_row = row + 8 * half;
    const bool has_row = out_row < num_rows;
    const auto sum = [&](int group) {
      return make_float2(sums[group][2 * half], sums[group][2 * half + 1]);
    };
    const auto value = [&](int group, float2 addend) {
      if constexpr (Epilogue::kPaired)
        return epilogue.value(sum(2 * group), sum(2 * group + 1));
      else
        return epilogue.value(Epilogue::kAdds ? sum(group) + addend : sum(group));
    };
    // What is added is asked for by the eight or more, so that memory is waited for less often.
    constexpr int kAtOnce = kOutGroups <= 12 ? kOutGroups : 8;
    static_assert(kOutGroups % kAtOnce == 0);
#pragma unroll
    for (int first = 0; first < kOutGroups; first += kAtOnce) {
      float2 addends[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (Epilogue::kAdds && has_row && first + i < num_out)
          addends[i] = addend_of(epilogue, out_row, column(first + i));
#pragma unroll
      for (int i = 0; i < kAtOnce; i += kChunkGroups) {
        const int group = first + i;
        if (kIsNarrow && i + kChunkGroups <= kAtOnce && group + kChunkGroups <= num_out &&
            epilogue.out.chunked &&
            (first_out + group + kChunkGroups) * kBlockRows <= epilogue.out.cols) {
          uint32_t chunks[kChunkGroups];
#pragma unroll
          for (int j = 0; j < kChunkGroups; ++j) {
            const int own = (i + j) % kAtOnce;  // i + j, which the compiler cannot know to be below
            const float2 pair = value(first + own, addends[own]);
            chunks[j] = pack_bf16x2(pair.x, pair.y);
          }
          gather_chunks(chunks, t);
          if (has_row)
            *reinterpret_cast<uint4*>(epilogue.out.data + out_row * epilogue.out.stride +
                                      (first_out + group + t) * kBlockRows) =
                make_uint4(chunks[0], chunks[1], chunks[2], chunks[3]);
        } else {
#pragma unroll
          for (int j = i; j < kAtOnce && j < i + kChunkGroups; ++j)
            if (has_row && first + j < num_out)
              epilogue.out.store(out_row, column(first + j), value(first + j, addends[j]));
        }
      }
    }
  }
}

// Where the kSplit blocks of a cluster that share the columns of a tile add up their sums: each
// finishes a part of the pairs of columns, and the others send it theirs.
template <int kSplit>
class DirectSums {
 public:
  // `sums`: of split_sum_bytes in each block.
  __device__ __forceinline__ DirectSums(void* sums, const TileGroups& groups, int first_row,
                                        int num_rows)
      : sums_(static_cast<float2*>(sums)),
        groups_(groups),
        first_row_(first_row),
        num_rows_(num_rows),
        row_pairs_(groups.count * (kBlockRows / 2)),
        shift_(split_shift(num_rows * row_pairs_, kSplit)) {}

  // Pair `pair` of row `row`, by block `rank`. What was sent before must have been used.
  __device__ __forceinline__ void send(int rank, int row, int pair, float2 sum) const {
    if (row >= num_rows_ || pair >= row_pairs_) return;
    const int index = row * row_pairs_ + pair;
    const int own = index & ((1 << shift_) - 1);
    store_to_cluster(sums_ + (rank << shift_) + own, index >> shift_, sum);
  }

  // By all threads, after a cluster's barrier: adds up the sums of the blocks as a tree.
  template <typename Epilogue>
  __device__ __forceinline__ void finish(int rank, const Epilogue& epilogue) const {
    const int count = min(num_rows_ * row_pairs_ - (rank << shift_), 1 << shift_);
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int index = (rank << shift_) + i;
      const int row = first_row_ + index / row_pairs_;
      const int col = groups_.first * kBlockRows + index % row_pairs_ * 2;
      const float2 addend = addend_of(epilogue, row, col);
      float2 parts[kSplit];
#pragma unroll
      for (int block = 0; block < kSplit; ++block) parts[block] = sums_[(block << shift_) + i];
#pragma unroll
      for (int width = 1; width < kSplit; width *= 2)
#pragma unroll
        for (int block = 0; block < kSplit; block += 2 * width)
          parts[block] = parts[block] + parts[block + width];
      epilogue.out.store(row, col, epilogue.value(Epilogue::kAdds ? parts[0] + addend : parts[0]));
    }
  }

 private:
  float2* sums_;
  TileGroups groups_;
  int first_row_;
  int num_rows_;
  int row_pairs_;
  int shift_;
};

}  // namespace hymba::cuda::hopper
