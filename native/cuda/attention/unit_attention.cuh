// One unit of a token's keys, for one K/V head, by one block: what the kernel of single tokens and
// the fused heads share.
//
// Mapping   The block visits a unit of the token's pages (split.h): the head's up to 16 query heads
//           are the rows of an mma. Half pages are dealt out to its 4 warps, each of which has a
//           softmax of its own. The block merges those, and the last block of a (token, K/V head)
//           to arrive merges the units; with one unit there is nothing to merge but the warps.
//           Units that a token does not have end at once.
// Shared    Queries [16][Dk], then for each warp half a page, K [32][Dk] and V [32][Dv], swizzled
// as
//           in memory. The next keys are on their way as soon as the scores are there, the next
//           values as soon as these have met the probabilities. Then the unit's half pages, so that
//           all page ids are asked for at once. Afterwards the warps' outputs.
// Latency   Position, slot and the page table's row are asked for together. Keys and values are on
//           their way before the queries are looked at.
// Numerics  As in spans.cu, with the sums cut by warp and unit, and merged in a fixed order. A
//           token's result depends on its position and the shape of the page table only, not on the
//           other spans of the step.
// Limits    Groups of up to 16 heads.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/attention/kernels.h"
#include "cuda/attention/split.h"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/attention/warp_attention.cuh"
#include "cuda/device/arrival.cuh"
#include "cuda/device/convert.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda {

inline constexpr int kAttentionWarps = 4;
inline constexpr int kAttentionThreads = kAttentionWarps * kWarp;
inline constexpr int kStepsAPage = kPageTokens / kStepKeys;
static_assert(kMaxGroup == kRowTile);

template <int kHeadDim, int kValueDim>
struct UnitMemory {
  static constexpr int kQueryElements = kRowTile * kHeadDim;
  static constexpr int kKeyElements = kStepKeys * kHeadDim;
  static constexpr int kWarpElements = kStepKeys * (kHeadDim + kValueDim);
  static constexpr int kBytes =
      (kQueryElements + kAttentionWarps * kWarpElements) * int{sizeof(BFloat16)};
  // That an SM of an H100 has shared memory for; 128 or 168 registers a thread.
  static constexpr int kBlocksAnSm = kBytes <= 52 * 1024 ? 4 : 3;
  // Of a warp's output, fp32: neighbouring rows lie in different banks.
  static constexpr int kOutStride = kValueDim + 8;
  static_assert(kRowTile * kOutStride * int{sizeof(float)} <= kWarpElements * int{sizeof(BFloat16)},
                "a warp's output fits into its half page");
};

// A part of a row's softmax: the maximum of its exponents of 2, and the sum relative to it.
struct Stats {
  float max;
  float sum;
};

// Partial results of the units of a launch: of item i, row r, at i · group + r.
struct Partials {
  Stats* stats;
  float* out;  // [value dim] each
};

// Neighbouring columns of a row, that a thread merges.
struct MergedColumns {
  static constexpr int kCount = 8;
  float4 low;
  float4 high;

  static __device__ __forceinline__ MergedColumns zeroes() {
    const float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return {four, four};
  }
  static __device__ __forceinline__ MergedColumns load(const float* from) {
    const auto* const fours = reinterpret_cast<const float4*>(from);
    return {fours[0], fours[1]};
  }
  __device__ __forceinline__ void store(float* to) const {
    reinterpret_cast<float4*>(to)[0] = low;
    reinterpret_cast<float4*>(to)[1] = high;
  }
  __device__ __forceinline__ void store_normalised(BFloat16* to, float sum) const {
    const float inverse = 1.0f / sum;
    *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16x2(low.x * inverse, low.y * inverse),
                                               pack_bf16x2(low.z * inverse, low.w * inverse),
                                               pack_bf16x2(high.x * inverse, high.y * inverse),
                                               pack_bf16x2(high.z * inverse, high.w * inverse));
  }

  __device__ __forceinline__ void add(const MergedColumns& other, float factor) {
    add(low, other.low, factor);
    add(high, other.high, factor);
  }

 private:
  static __device__ __forceinline__ void add(float4& to, const float4& some, float factor) {
    to.x = fmaf(some.x, factor, to.x);
    to.y = fmaf(some.y, factor, to.y);
    to.z = fmaf(some.z, factor, to.z);
    to.w = fmaf(some.w, factor, to.w);
  }
};

// Columns of a row, merged from `count` parts in order, the first of which saw a key. `stats(i)`
// and `out(i)` give those of a part; `out` is relative to the maximum, like the sum. A part that
// saw no key has a maximum of -∞. A few parts are asked for at once: mostly all of them.
template <typename PartStats, typename PartOut>
__device__ __forceinline__ MergedColumns merge(int count, const PartStats& stats,
                                               const PartOut& out, Stats& merged) {
  constexpr int kTogether = 5;
  merged = {negative_infinity(), 0.0f};
  MergedColumns sum = MergedColumns::zeroes();
  for (int first = 0; first < count; first += kTogether) {
    Stats part[kTogether];
    MergedColumns values[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const bool present = first + i < count;
      part[i] = present ? stats(first + i) : Stats{negative_infinity(), 0.0f};
      values[i] = present ? out(first + i) : MergedColumns::zeroes();
    }
    const float old_max = merged.max;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) merged.max = fmaxf(merged.max, part[i].max);
    const float base = merged.max == negative_infinity() ? 0.0f : merged.max;
    const MergedColumns old = sum;
    const float old_sum = merged.sum;
    sum = MergedColumns::zeroes();
    merged.sum = 0.0f;
    const auto add = [&](const MergedColumns& some, float some_sum, float factor) {
      merged.sum = fmaf(some_sum, factor, merged.sum);
      sum.add(some, factor);
    };
    add(old, old_sum, exp2_approx(old_max - base));
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      add(values[i], part[i].sum, exp2_approx(part[i].max - base));
  }
  return sum;
}

// 32 slots of K or V of a page, [64][kDim], by one warp. Those outside [first, end) become zeroes.
template <int kDim>
__device__ __forceinline__ void load_half_page(BFloat16* to, const BFloat16* from, int first,
                                               int end) {
  constexpr int kPanelStep = kStepKeys * kPanelElements;
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < kStepKeys * kDim; i += kWarp * kChunkElements) {
    const int panel = i / kPanelStep;
    const unsigned in_panel = i % kPanelStep + lane * kChunkElements;
    const int slot = in_panel / kPanelElements;
    copy_16_async(to + panel * kPanelStep + in_panel,
                  from + panel * (kPageTokens * kPanelElements) + in_panel,
                  slot >= first && slot < end ? 16 : 0);
  }
}

// Half a page, and which of its slots, [first, end), the token sees; none when first ≥ end.
struct Step {
  int32_t tile;  // of the pool
  int8_t first;
  int8_t end;
  bool ends_in_own;  // the last of them is the token's own, and not in the page yet
};

// Asks for what load_half_page will, K and V, from the step's keys on.
template <int kHeadDim, int kValueDim>
__device__ __forceinline__ void prefetch_half_page(const BFloat16* keys) {
  constexpr int kPanels = (kHeadDim + kValueDim) / kPanelElements;
  static_assert(kStepKeys == kWarp, "a lane asks for one row of 128 bytes of each panel");
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel)
    prefetch_to_l2(keys +
                   (panel * kPageTokens + static_cast<int>(threadIdx.x) % kWarp) * kPanelElements);
}

// What all units of a launch have in common.
struct UnitParams {
  Rows<BFloat16> out;
  KvPages<BFloat16> kv;
  DeviceBatch batch;
  int first_span;
  int window;
  int group;  // query heads a K/V head
  float scale_log2;
  SplitPlan plan;
  Partials partials;
  uint32_t* counters;  // one a (token, K/V head)
  bool prefetches;     // whether second half pages are asked for from the start

  int num_units(int num_spans) const { return num_spans * kv.num_kv_heads * plan.max_units; }
};

// Where a (token, K/V head) is found in memory.
struct UnitToken {
  int token;
  int position;
  int kv_head;
};

// The token's own key and value, when they are not in their page yet: where they belong.
struct OwnSlot {
  BFloat16* tile;    // K of the page
  int slot;          // in the page
  BFloat16* shared;  // [Dk], then [Dv], for the block
};

// Unit `block` of the launch. All threads of a block of kAttentionThreads call it, after
// wait_for_predecessor. `inputs` is where tokens and queries come from:
//   int token(span)                 the span's only token, -1 if it has more
//   kBringsKeys, brings_key()       whether the token's own key and value come with the queries
//   bring(queries, at, group, own)  lays down the group's queries, rows of zeroes after them, and,
//                                   where `own` is not null, key and value, there and in their page
template <int kHeadDim, int kValueDim, typename Inputs>
__device__ __forceinline__ void attend_unit(const UnitParams& params, int block,
                                            const Inputs& inputs) {
  using Memory = UnitMemory<kHeadDim, kValueDim>;
  const KvPages<BFloat16>& kv = params.kv;
  const SplitPlan& plan = params.plan;
  const int group = params.group;
  const int unit = block % plan.max_units;
  const int pair = block / plan.max_units;  // (span, K/V head)
  const int kv_head = pair % kv.num_kv_heads;
  const int span = params.first_span + pair / kv.num_kv_heads;
  const int token = inputs.token(span);
  if (token < 0) return;

  // As much of the table's row as there are threads, before it is known which columns are needed.
  __shared__ int32_t row_pages[kAttentionThreads];
  const int thread = threadIdx.x;
  const bool padded = params.batch.padded(span);
  const int position = params.batch.positions[token];
  row_pages[thread] = thread < kv.meta_columns + kv.ring_columns ? kv.page(span, thread) : 0;
  if (padded) return;
  const VisiblePages pages(kv, params.window, position, position);
  const int num_units = (pages.count() + plan.unit_pages - 1) / plan.unit_pages;
  if (unit >= num_units) return;
  __syncthreads();

  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  BFloat16* const queries = dynamic_shared<BFloat16>();
  BFloat16* const buffers = queries + Memory::kQueryElements;
  BFloat16* const keys = buffers + warp * Memory::kWarpElements;
  BFloat16* const values = keys + Memory::kKeyElements;
  auto* const steps = reinterpret_cast<Step*>(buffers + kAttentionWarps * Memory::kWarpElements);

  const int first_page = unit * plan.unit_pages;
  const int num_steps = min(plan.unit_pages, pages.count() - first_page) * kStepsAPage;
  // The last key that a token sees is its own.
  const int own_slot = kv.slot(position);
  int own_step = -1;
  if constexpr (Inputs::kBringsKeys)
    if (inputs.brings_key() && unit == num_units - 1)
      own_step = (pages.count() - 1 - first_page) * kStepsAPage + own_slot / kStepKeys;
  for (int i = thread; i < num_steps; i += kAttentionThreads) {
    const int page = first_page + i / kStepsAPage;
    const int slot = i % kStepsAPage * kStepKeys;
    const int column = pages.column(page);
    const int id = column < kAttentionThreads ? row_pages[column] : kv.page(span, column);
    steps[i] = {static_cast<int32_t>(kv.tile_index(id, kv_head)),
                static_cast<int8_t>(max(pages.first_slot(page, position) - slot, 0)),
                static_cast<int8_t>(min(pages.end_slot(page, position) - slot, kStepKeys)),
                i == own_step};
  }
  __syncthreads();

  const auto tile_of = [&](int index) {
    return kv.pool + int64_t{steps[index].tile} * (kPageTokens * (kHeadDim + kValueDim));
  };
  const auto step_keys = [&](int index) {
    return tile_of(index) + index % kStepsAPage * kStepKeys * kPanelElements;
  };
  const auto load_keys = [&](int index) {
    if (index < num_steps) {
      const Step step = steps[index];
      load_half_page<kHeadDim>(keys, step_keys(index), step.first, step.end - step.ends_in_own);
    }
    commit_copies();
  };
  const auto load_values = [&](int index) {
    if (index < num_steps) {
      const Step step = steps[index];
      load_half_page<kValueDim>(values, step_keys(index) + kPageTokens * kHeadDim, step.first,
                                step.end - step.ends_in_own);
    }
    commit_copies();
  };
  // The own key or value, whose place the copies left empty.
  alignas(16) __shared__ BFloat16 own[kHeadDim + kValueDim];
  const auto take_own = [&](const Step& step, BFloat16* to, const BFloat16* from, int dim) {
    if (!Inputs::kBringsKeys || !step.ends_in_own) return;
    if (lane < dim / kChunkElements)
      *reinterpret_cast<uint4*>(to + shared_chunk<kStepKeys>(step.end - 1, lane)) =
          *reinterpret_cast<const uint4*>(from + lane * kChunkElements);
    __syncwarp();
  };
  load_keys(warp);
  load_values(warp);
  if (params.prefetches && warp + kAttentionWarps < num_steps)
    prefetch_half_page<kHeadDim, kValueDim>(step_keys(warp + kAttentionWarps));

  const UnitToken at{token, position, kv_head};
  if (own_step >= 0) {
    const OwnSlot place{tile_of(own_step), own_slot, own};
    inputs.bring(queries, at, group, &place);
  } else {
    inputs.bring(queries, at, group, nullptr);
  }
  // Not before: what the successor reads ahead would be in the way of all this.
  allow_successor();
  __syncthreads();

  const SharedQueries<1, kRowTile> warp_queries(queries, 0);
  WarpAttention<1, kValueDim> state;
  for (int index = warp; index < num_steps; index += kAttentionWarps) {
    wait_copies<1>();
    __syncwarp();
    take_own(steps[index], keys, own, kHeadDim);
    Scores<1> scores;
    score_keys<kHeadDim, kStepKeys>(scores, warp_queries, keys);
    __syncwarp();
    load_keys(index + kAttentionWarps);
    const Step step = steps[index];
    if (step.first > 0 || step.end < kStepKeys) {
      hide_keys(scores[0], 0, step.first, step.end);
      hide_keys(scores[0], 1, step.first, step.end);
    }
    Probabilities<1> probabilities;
    state.add_scores(probabilities, scores, params.scale_log2);
    wait_copies<1>();
    __syncwarp();
    take_own(steps[index], values, own + kHeadDim, kValueDim);
    state.template add_values<kStepKeys>(probabilities, values);
    __syncwarp();
    load_values(index + kAttentionWarps);
  }

  // From the registers of the warps to shared memory.
  __shared__ Stats warp_stats[kAttentionWarps][kRowTile];
  const auto warp_out = [&](int w, int row) {
    return reinterpret_cast<float*>(buffers + w * Memory::kWarpElements) + row * Memory::kOutStride;
  };
  wait_copies<0>();
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    const float sum = state.row_sum(0, half);
    if (row >= group) continue;
    if (lane % 4 == 0) warp_stats[warp][row] = {state.max[0][half], sum};
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i)
      *reinterpret_cast<float2*>(warp_out(warp, row) + 8 * i + lane % 4 * 2) =
          make_float2(state.out[0][i][2 * half], state.out[0][i][2 * half + 1]);
  }
  __syncthreads();

  // In one round, for groups of up to 8 heads of 128.
  constexpr int kRowParts = kValueDim / MergedColumns::kCount;
  const auto for_columns = [&](const auto& call) {
    for (int i = threadIdx.x; i < group * kRowParts; i += kAttentionThreads)
      call(i / kRowParts, i % kRowParts * MergedColumns::kCount);
  };
  BFloat16* const token_out = params.out[token] + kv_head * group * kValueDim;
  for_columns([&](int row, int column) {
    Stats merged;
    const MergedColumns sum = merge(
        kAttentionWarps, [&](int w) { return warp_stats[w][row]; },
        [&](int w) { return MergedColumns::load(warp_out(w, row) + column); }, merged);
    if (num_units == 1) {
      sum.store_normalised(token_out + row * kValueDim + column, merged.sum);
    } else {
      const int64_t part = int64_t{block} * group + row;
      sum.store(params.partials.out + part * kValueDim + column);
      if (column == 0) params.partials.stats[part] = merged;
    }
  });
  if (num_units == 1) return;

  if (!arrives_last(params.counters + pair, num_units)) return;
  const int64_t first_unit = static_cast<int64_t>(pair) * plan.max_units;
  for_columns([&](int row, int column) {
    const auto part = [&](int u) { return (first_unit + u) * group + row; };
    Stats merged;
    const MergedColumns sum = merge(
        num_units, [&](int u) { return params.partials.stats[part(u)]; },
        [&](int u) {
          return MergedColumns::load(params.partials.out + part(u) * kValueDim + column);
        },
        merged);
    sum.store_normalised(token_out + row * kValueDim + column, merged.sum);
  });
}

// The units of up to `num_spans` spans from the first one on, without where partial results go.
inline UnitParams unit_params(const AttentionArgs& args, const LaunchContext& context,
                              int num_spans) {
  UnitParams params{.out = Rows<BFloat16>(args.out),
                    .kv = KvPages<BFloat16>(args.kv),
                    .batch = DeviceBatch(args.batch),
                    .first_span = 0,
                    .window = args.window,
                    .group = static_cast<int>(args.q.dim(1)) / args.kv.num_kv_heads,
                    .scale_log2 = args.scale * kLog2E,
                    .plan = plan_split(
                        max_visible_pages(args.kv.meta_columns, args.kv.ring_columns, args.window)),
                    .partials = {},
                    .counters = context.counters,
                    .prefetches = false};
  params.prefetches = params.num_units(num_spans) <= context.device->num_sms;
  return params;
}

// Floats that the partial results of `num_spans` spans take: outputs, maxima and sums.
inline int64_t partial_floats(const AttentionArgs& args, const SplitPlan& plan, int num_spans) {
  if (plan.max_units == 1) return 0;
  return int64_t{num_spans} * args.q.dim(1) * plan.max_units * (args.kv.value_head_dim + 2);
}

inline Partials partials_in(float* memory, const AttentionArgs& args, const SplitPlan& plan,
                            int num_spans) {
  const int64_t rows = int64_t{num_spans} * args.q.dim(1) * plan.max_units;
  return {reinterpret_cast<Stats*>(memory + rows * args.kv.value_head_dim), memory};
}

template <int kHeadDim, int kValueDim>
size_t unit_shared_bytes(const SplitPlan& plan) {
  return UnitMemory<kHeadDim, kValueDim>::kBytes + plan.unit_pages * kStepsAPage * sizeof(Step);
}

}  // namespace hymba::cuda
