// From the accumulators of a matrix instruction to what the epilogue makes of them.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/device/reduce.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/packed_matrix.h"

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

}  // namespace hymba::cuda::hopper
