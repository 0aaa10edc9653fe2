// The sums of a tile whose columns the blocks of a cluster share: each block finishes a part of the
// rows, and gets the others' sums of them.
//
// A block lays out its sums in its own shared memory by rows, so that what another block is to get
// is one piece. It sends it by a bulk copy, and the other's barrier counts the bytes: no barrier of
// the cluster has to wait for memory.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/hopper/finish.cuh"
#include "cuda/gemm/hopper/operands.h"
#include "cuda/gemm/hopper/plan.h"

namespace hymba::cuda::hopper {

// Barriers of a block (sync_threads): of the warps that multiply, and of all that finish a tile.
inline constexpr int kReadersBarrier = 1;
inline constexpr int kFinishBarrier = 2;

// For tiles of up to kRows rows of activations and kSplitGroups groups. kThreads of a block, the
// first ones, take part; other warps have nothing more to do.
template <int kRows, int kThreads>
class SplitSums {
  static constexpr int kRowPairs = kSplitGroups * (kBlockRows / 2);
  static constexpr int kRowBytes = kRowPairs * int{sizeof(float2)};
  static constexpr int kPartPairs = kRows / kSplit * kRowPairs;
  static constexpr int kRounds = static_cast<int>(ceil_div(kPartPairs, kThreads));
  static_assert(kRows % kSplit == 0 && kRowBytes % 16 == 0);
  // Then the four rows that half a warp writes to together lie in different banks.
  static_assert(kSplitGroups % 2 == 1);

 public:
  // Of shared memory, on a multiple of 16 and in all blocks at the same place: a block's own sums,
  // and what it gets from every other block, which leaves a gap at its own rank.
  static constexpr int kBytes = 2 * kRows * kRowBytes;

  // `arrived` is for one arrival.
  __device__ __forceinline__ SplitSums(void* memory, Barrier* arrived)
      : own_(static_cast<float2*>(memory)),
        received_(own_ + kRows * kRowPairs),
        arrived_(arrived) {}

  // This block's sums of pair `pair` of the columns of row `row`.
  __device__ __forceinline__ void put(int row, int pair, float2 sum) const {
    own_[row * kRowPairs + pair] = sum;
  }

  // Once, by all that take part, in block `rank` of the cluster, after they put their sums and
  // arrived at the cluster's barrier: since then nothing else has been in the place of what they
  // get.
  template <typename Epilogue>
  __device__ __forceinline__ void finish(int rank, const TileGroups& groups, int first_row,
                                         int num_rows, const Epilogue& epilogue) const {
    const int part = static_cast<int>(ceil_div(num_rows, kSplit));
    const auto rows_of = [&](int block) { return max(min(num_rows - block * part, part), 0); };
    const int own_pairs = rows_of(rank) * kRowPairs;
    const auto for_own_pairs = [&](const auto& call) {
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        const int i = round * kThreads + threadIdx.x;
        const int pair = i % kRowPairs;
        if (i < own_pairs && pair < groups.count * (kBlockRows / 2))
          call(round, i, first_row + rank * part + i / kRowPairs,
               groups.first * kBlockRows + 2 * pair);
      }
    };

    fence_before_copies();
    // What is added is asked for before the sums are waited for.
    wait_for_predecessor();
    float2 addends[kRounds] = {};
    for_own_pairs(
        [&](int round, int, int row, int col) { addends[round] = addend_of(epilogue, row, col); });

    sync_threads<kFinishBarrier, kThreads>();
    wait_for_cluster();
    if (threadIdx.x == 0) arrive_expecting(arrived_, (kSplit - 1) * rows_of(rank) * kRowBytes);
    // A warp a copy, and every block starts with another.
    if (threadIdx.x % kWarp == 0)
      for (int i = threadIdx.x / kWarp + 1; i < kSplit; i += kThreads / kWarp) {
        const int block = (rank + i) % kSplit;
        const int bytes = rows_of(block) * kRowBytes;
        if (bytes > 0)
          copy_bulk_to_cluster(received_ + rank * kPartPairs, own_ + block * part * kRowPairs,
                               bytes, arrived_, block);
      }
    float2 own_sums[kRounds] = {};
    for_own_pairs(
        [&](int round, int i, int, int) { own_sums[round] = own_[rank * part * kRowPairs + i]; });
    __syncwarp();
    wait_for_phase(arrived_, 0);
    __syncwarp();
    // When all have what they need, nobody reads this block's sums any more.
    arrive_at_cluster();

    for_own_pairs([&](int round, int i, int row, int col) {
      // Added up as a tree.
      float2 sums[kSplit];
#pragma unroll
      for (int block = 0; block < kSplit; ++block)
        sums[block] = block == rank ? own_sums[round] : received_[block * kPartPairs + i];
#pragma unroll
      for (int width = 1; width < kSplit; width *= 2)
#pragma unroll
        for (int block = 0; block < kSplit; block += 2 * width)
          sums[block] = sums[block] + sums[block + width];
      epilogue.out.store(row, col,
                         epilogue.value(Epilogue::kAdds ? sums[0] + addends[round] : sums[0]));
    });
    __syncwarp();
    wait_for_cluster();
  }

 private:
  float2* own_;
  float2* received_;
  Barrier* arrived_;
};

}  // namespace hymba::cuda::hopper
