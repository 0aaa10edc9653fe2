// Selection from a row of logits by one block: how far a ranking reaches until a weight is reached.
#pragma once

#include "cuda/device/reduce.cuh"
#include "cuda/sample/rank_code.h"
#include "ops/sampling_math.h"

namespace hymba::cuda {

inline constexpr int kSelectThreads = 1024;

// Shared memory of the selection.
struct Selection {
  static constexpr int kBinBits = 10;  // a bin a thread
  static constexpr int kMaxListed = 4096;

  RankCode list[kMaxListed];
  int num_listed;

  // A histogram of candidates. Weights are 64 bits as a sum and its carries, because shared memory
  // adds 32 bits in one instruction and 64 in a loop.
  uint32_t counts[1 << kBinBits];
  uint32_t weights[1 << kBinBits];
  uint32_t carries[1 << kBinBits];
  uint64_t warp_totals[kSelectThreads / kWarp];

  // The bin that was found.
  int bin;
  uint32_t bin_count;
  uint64_t missing;
};
static_assert(kSelectThreads == 1 << Selection::kBinBits);

// The tokens to select from: those of a row of logits that are above -∞ or, once there are few
// enough of them, a list of codes in shared memory.
struct Candidates {
  const float* logits;
  int vocab_size;
  const RankCode* list;  // or null
  int num_listed;
};

// Calls visit(code) for every candidate. Warps stay together: lanes that have none get kNoToken.
template <typename Visit>
__device__ __forceinline__ void for_each(const Candidates& candidates, const Visit& visit) {
  if (candidates.list != nullptr) {
    for (int first = 0; first < candidates.num_listed; first += kSelectThreads) {
      const int i = first + threadIdx.x;
      visit(i < candidates.num_listed ? candidates.list[i] : kNoToken);
    }
    return;
  }
  constexpr int kPerThread = 4;  // loads under way
  for (int first = 0; first < candidates.vocab_size; first += kPerThread * kSelectThreads) {
    float logits[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int token = first + i * kSelectThreads + threadIdx.x;
      logits[i] = token < candidates.vocab_size ? candidates.logits[token] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const float logit = clean_logit(logits[i]);
      const int token = first + i * kSelectThreads + threadIdx.x;
      visit(logit == -INFINITY ? kNoToken : rank_code(logit, token));
    }
  }
}

// The sum of the values of the threads up to and including this one. Returns without a barrier
// after the last use of `warp_totals`.
__device__ __forceinline__ uint64_t inclusive_scan(uint64_t value, uint64_t* warp_totals) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, value, offset);
    if (lane >= offset) value += before;
  }
  if (lane == kWarp - 1) warp_totals[warp] = value;
  __syncthreads();
  for (int i = 0; i < warp; ++i) value += warp_totals[i];
  return value;
}

// Weight of one for every candidate: for top-k.
struct UnitWeight {
  __device__ __forceinline__ int32_t operator()(RankCode) const { return 1; }
};

// The shortest beginning of the ranking whose weight reaches `target` ≥ 1 ends with some token:
// returns the code of that token, or a later one with no candidate between them. When all
// candidates together weigh less, returns `last`. Considers candidates in [first, last] with a
// weight ≥ 0; those of weight -1 are none.
//
// A search by 1024-way splits of the range of codes: each round sums the weights by the upper bits,
// finds the bin in which the target is reached, and goes on inside it until the bin holds one
// candidate: mostly two rounds, at most five.
template <typename Weight>
__device__ RankCode find_cut(const Candidates& candidates, RankCode first, RankCode last,
                             uint64_t target, const Weight& weight, Selection& shared) {
  const int own = threadIdx.x;
  uint64_t missing = target;
  while (true) {
    const RankCode span = last - first;
    const int shift = max(0, 64 - __clzll(static_cast<long long>(span)) - Selection::kBinBits);
    shared.counts[own] = 0;
    shared.weights[own] = 0;
    shared.carries[own] = 0;
    if (own == 0) shared.bin = -1;
    __syncthreads();

    for_each(candidates, [&](RankCode code) {
      if (code - first > span) return;  // also when it lies before `first`
      const int32_t mass = weight(code);
      if (mass < 0) return;
      const int bin = static_cast<int>((code - first) >> shift);
      atomicAdd(&shared.counts[bin], 1u);
      const uint32_t before = atomicAdd(&shared.weights[bin], static_cast<uint32_t>(mass));
      if (before + static_cast<uint32_t>(mass) < before) atomicAdd(&shared.carries[bin], 1u);
    });
    __syncthreads();

    const uint64_t own_weight =
        static_cast<uint64_t>(shared.carries[own]) << 32 | shared.weights[own];
    const uint64_t through = inclusive_scan(own_weight, shared.warp_totals);
    const uint64_t before = through - own_weight;
    if (before < missing && missing <= through) {
      shared.bin = own;
      shared.bin_count = shared.counts[own];
      shared.missing = missing - before;
    }
    __syncthreads();

    const int bin = shared.bin;
    const bool single = shared.bin_count == 1;
    missing = shared.missing;
    __syncthreads();
    if (bin < 0) return last;
    first += static_cast<RankCode>(bin) << shift;
    last = first_of(last, first + (RankCode{1} << shift) - 1);
    if (single || shift == 0) return last;
  }
}

// Lists the candidates that `keep` holds for, when they are few enough; else changes nothing.
template <typename Keep>
__device__ void shorten(Candidates& candidates, const Keep& keep, Selection& shared) {
  if (threadIdx.x == 0) shared.num_listed = 0;
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for_each(candidates, [&](RankCode code) {
    const bool kept = code != kNoToken && keep(code);
    const unsigned keepers = __ballot_sync(kAllLanes, kept);
    if (keepers == 0) return;
    int place = lane == 0 ? atomicAdd(&shared.num_listed, __popc(keepers)) : 0;
    place = __shfl_sync(kAllLanes, place, 0) + __popc(keepers & ((1u << lane) - 1));
    if (kept && place < Selection::kMaxListed) shared.list[place] = code;
  });
  __syncthreads();
  if (shared.num_listed <= Selection::kMaxListed) {
    candidates.list = shared.list;
    candidates.num_listed = shared.num_listed;
  }
}

// The cut behind the first `count` of a row. The count-th largest of the threads' own best is a
// bound that they all reach and, when they are few, little else does; so the row is read twice, and
// what is left fits into the list.
__device__ inline RankCode find_first(Candidates& candidates, RankCode first, RankCode last,
                                      int count, Selection& shared) {
  if (count <= kSelectThreads) {
    RankCode best = kNoToken;
    for_each(candidates, [&](RankCode code) { best = first_of(best, code); });
    shared.list[threadIdx.x] = best;
    __syncthreads();
    const Candidates leaders{nullptr, 0, shared.list, kSelectThreads};
    last = find_cut(leaders, first, last, count, UnitWeight{}, shared);
    shorten(
        candidates, [&](RankCode code) { return code <= last; }, shared);
  }
  return find_cut(candidates, first, last, count, UnitWeight{}, shared);
}

}  // namespace hymba::cuda
