// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for spans of exactly one token: a
//           step of decoding.
// Shapes    q [T, H, Dk] bf16, rows strided, out [T, H, Dv] bf16; Dk and Dv 64 or 128; K and V in
//           pages (device/kv_pages.cuh).
// Mapping   A block visits one unit of a token's pages (split.h) for one K/V head: its up to 16
// query
//           heads are the rows of an mma. Half pages are dealt out to its 4 warps, each of which
//           has a softmax of its own. The block merges those, and the last block of a (token, K/V
//           head) to arrive merges the units; with one unit there is nothing to merge but the
//           warps. Units that a token does not have end at once.
// Shared    Queries [16][Dk], then for each warp half a page, K [32][Dk] and V [32][Dv], swizzled
// as
//           in memory. The next keys are on their way as soon as the scores are there, the next
//           values as soon as these have met the probabilities. Then the unit's half pages, so that
//           all page ids are asked for at once. Afterwards the warps' outputs.
// Numerics  As in spans.cu, with the sums cut by warp and unit, and merged in a fixed order. A
//           token's result depends on its position and the shape of the page table only, not on
//           the other spans of the step.
// Limits    Groups of up to 16 heads.
// Cost      (Dk + Dv)·2 bytes a K/V head and visible key, once: bound by memory. At 64/128 a block
//           keeps 48 KB under way, four blocks fit on an SM of an H100.

#include "cuda/attention/kernels.h"
#include "cuda/attention/split.h"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/attention/warp_attention.cuh"
#include "cuda/device/convert.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStepsAPage = kPageTokens / kStepKeys;
static_assert(kMaxGroup == kRowTile);

template <int kHeadDim, int kValueDim>
struct Shared {
  static constexpr int kQueryElements = kRowTile * kHeadDim;
  static constexpr int kKeyElements = kStepKeys * kHeadDim;
  static constexpr int kWarpElements = kStepKeys * (kHeadDim + kValueDim);
  static constexpr int kBytes = (kQueryElements + kWarps * kWarpElements) * int{sizeof(BFloat16)};
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

// Four columns of a row, merged from `count` parts in order. `stats(i)` and `out(i)` give those of
// a part; `out` is relative to the maximum, like the sum. A part that saw no key has a maximum of
// -∞, and one at least saw some.
template <typename PartStats, typename PartOut>
__device__ __forceinline__ float4 merge(int count, const PartStats& stats, const PartOut& out,
                                        Stats& merged) {
  merged = {negative_infinity(), 0.0f};
  for (int i = 0; i < count; ++i) merged.max = fmaxf(merged.max, stats(i).max);
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int i = 0; i < count; ++i) {
    const Stats part = stats(i);
    const float4 values = out(i);
    const float factor = exp2_approx(part.max - merged.max);
    merged.sum = fmaf(part.sum, factor, merged.sum);
    sum.x = fmaf(values.x, factor, sum.x);
    sum.y = fmaf(values.y, factor, sum.y);
    sum.z = fmaf(values.z, factor, sum.z);
    sum.w = fmaf(values.w, factor, sum.w);
  }
  return sum;
}

__device__ __forceinline__ void store_normalised(BFloat16* to, const float4& values, float sum) {
  const float inverse = 1.0f / sum;
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16x2(values.x * inverse, values.y * inverse),
                                             pack_bf16x2(values.z * inverse, values.w * inverse));
}

// Rows from `group` on become zeroes.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(BFloat16* queries, const BFloat16* q, int group) {
  constexpr int kRowChunks = kHeadDim / kChunkElements;
#pragma unroll
  for (int i = 0; i < kRowTile * kRowChunks; i += kThreads) {
    const int row = (i + static_cast<int>(threadIdx.x)) / kRowChunks;
    const int chunk = threadIdx.x % kRowChunks;
    const bool valid = row < group;
    copy_16_async(queries + shared_chunk<kRowTile>(row, chunk),
                  q + (valid ? row : 0) * kHeadDim + chunk * kChunkElements, valid ? 16 : 0);
  }
}

// 32 slots of K or V of a page, [64][kDim], by one warp. Those outside [first, end) become zeroes.
template <int kDim>
__device__ __forceinline__ void load_half_page(BFloat16* to, const BFloat16* from, int first,
                                               int end) {
  constexpr int kPanelStep = kStepKeys * kPanelElements;
#pragma unroll
  for (int i = 0; i < kStepKeys * kDim; i += kWarp * kChunkElements) {
    const int panel = i / kPanelStep;
    const int in_panel = i % kPanelStep + static_cast<int>(threadIdx.x) % kWarp * kChunkElements;
    const int slot = in_panel / kPanelElements;
    copy_16_async(to + panel * kPanelStep + in_panel,
                  from + panel * (kPageTokens * kPanelElements) + in_panel,
                  slot >= first && slot < end ? 16 : 0);
  }
}

// Half a page, and which of its slots, [first, end), the token sees; none when first ≥ end.
struct Step {
  int32_t page;
  int16_t first;
  int16_t end;
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

template <int kHeadDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, Shared<kHeadDim, kValueDim>::kBlocksAnSm)
    single_tokens_kernel(Rows<const BFloat16> q, Rows<BFloat16> out, KvPages<BFloat16> kv,
                         DeviceBatch batch, int first_span, int window, int group, float scale_log2,
                         SplitPlan plan, Partials partials, uint32_t* counters, bool prefetches) {
  using Memory = Shared<kHeadDim, kValueDim>;
  allow_successor();
  wait_for_predecessor();
  const int unit = blockIdx.x % plan.max_units;
  const int pair = blockIdx.x / plan.max_units;  // (span, K/V head)
  const int kv_head = pair % kv.num_kv_heads;
  const int span = first_span + pair / kv.num_kv_heads;
  const int token = batch.span_offsets[span];
  if (batch.span_offsets[span + 1] - token != 1 || batch.padded(span)) return;
  const int position = batch.positions[token];
  const VisiblePages pages(kv, window, position, position);
  const int num_units = (pages.count() + plan.unit_pages - 1) / plan.unit_pages;
  if (unit >= num_units) return;

  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  BFloat16* const queries = dynamic_shared<BFloat16>();
  BFloat16* const buffers = queries + Memory::kQueryElements;
  BFloat16* const keys = buffers + warp * Memory::kWarpElements;
  BFloat16* const values = keys + Memory::kKeyElements;
  auto* const steps = reinterpret_cast<Step*>(buffers + kWarps * Memory::kWarpElements);

  load_queries<kHeadDim>(queries, q[token] + kv_head * group * kHeadDim, group);
  commit_copies();
  const int first_page = unit * plan.unit_pages;
  const int num_steps = min(plan.unit_pages, pages.count() - first_page) * kStepsAPage;
  for (int i = threadIdx.x; i < num_steps; i += kThreads) {
    const int page = first_page + i / kStepsAPage;
    const int slot = i % kStepsAPage * kStepKeys;
    steps[i] = {kv.page(span, pages.column(page)),
                static_cast<int16_t>(max(pages.first_slot(page, position) - slot, 0)),
                static_cast<int16_t>(min(pages.end_slot(page, position) - slot, kStepKeys))};
  }
  __syncthreads();

  const auto step_keys = [&](int index) -> const BFloat16* {
    return kv.tile(steps[index].page, kv_head) + index % kStepsAPage * kStepKeys * kPanelElements;
  };
  const auto load_keys = [&](int index) {
    if (index < num_steps)
      load_half_page<kHeadDim>(keys, step_keys(index), steps[index].first, steps[index].end);
    commit_copies();
  };
  const auto load_values = [&](int index) {
    if (index < num_steps)
      load_half_page<kValueDim>(values, step_keys(index) + kPageTokens * kHeadDim,
                                steps[index].first, steps[index].end);
    commit_copies();
  };
  load_keys(warp);
  load_values(warp);
  if (prefetches && warp + kWarps < num_steps)
    prefetch_half_page<kHeadDim, kValueDim>(step_keys(warp + kWarps));
  wait_copies<2>();
  __syncthreads();  // the queries are here

  const SharedQueries<1, kRowTile> warp_queries(queries, 0);
  WarpAttention<1, kValueDim> state;
  for (int index = warp; index < num_steps; index += kWarps) {
    wait_copies<1>();
    __syncwarp();
    Scores<1> scores;
    score_keys<kHeadDim, kStepKeys>(scores, warp_queries, keys);
    __syncwarp();
    load_keys(index + kWarps);
    const Step step = steps[index];
    if (step.first > 0 || step.end < kStepKeys) {
      hide_keys(scores[0], 0, step.first, step.end);
      hide_keys(scores[0], 1, step.first, step.end);
    }
    Probabilities<1> probabilities;
    state.add_scores(probabilities, scores, scale_log2);
    wait_copies<1>();
    __syncwarp();
    state.template add_values<kStepKeys>(probabilities, values);
    __syncwarp();
    load_values(index + kWarps);
  }

  // From the registers of the warps to shared memory.
  __shared__ Stats warp_stats[kWarps][kRowTile];
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

  // Four columns a thread.
  constexpr int kRowParts = kValueDim / 4;
  BFloat16* const token_out = out[token] + kv_head * group * kValueDim;
  const int64_t first_item = static_cast<int64_t>(pair) * plan.max_units;
  for (int i = threadIdx.x; i < group * kRowParts; i += kThreads) {
    const int row = i / kRowParts;
    const int column = i % kRowParts * 4;
    Stats merged;
    const float4 sum = merge(
        kWarps, [&](int w) { return warp_stats[w][row]; },
        [&](int w) { return *reinterpret_cast<const float4*>(warp_out(w, row) + column); }, merged);
    if (num_units == 1) {
      store_normalised(token_out + row * kValueDim + column, sum, merged.sum);
    } else {
      const int64_t part = (first_item + unit) * group + row;
      *reinterpret_cast<float4*>(partials.out + part * kValueDim + column) = sum;
      if (column == 0) partials.stats[part] = merged;
    }
  }
  if (num_units == 1) return;

  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) is_last = arrive(counters + pair, num_units - 1) == num_units - 1u;
  __syncthreads();
  if (!is_last) return;
  for (int i = threadIdx.x; i < group * kRowParts; i += kThreads) {
    const int row = i / kRowParts;
    const int column = i % kRowParts * 4;
    const auto part = [&](int u) { return (first_item + u) * group + row; };
    Stats merged;
    const float4 sum = merge(
        num_units, [&](int u) { return partials.stats[part(u)]; },
        [&](int u) {
          return *reinterpret_cast<const float4*>(partials.out + part(u) * kValueDim + column);
        },
        merged);
    store_normalised(token_out + row * kValueDim + column, sum, merged.sum);
  }
}

}  // namespace

void attend_single_tokens(const AttentionArgs& args, const LaunchContext& context) {
  const int kv_heads = args.kv.num_kv_heads;
  const int num_heads = static_cast<int>(args.q.dim(1));
  const SplitPlan plan =
      plan_split(max_visible_pages(args.kv.meta_columns, args.kv.ring_columns, args.window));
  const int spans_a_launch = std::min(kMaxLaunchSpans, context.num_counters / kv_heads);
  if (spans_a_launch == 0)
    fail(ErrorCode::kModelUnsupported, "attention: ", kv_heads, " K/V heads, expected at most ",
         context.num_counters);

  const int64_t rows = static_cast<int64_t>(std::min(args.batch.num_spans, spans_a_launch)) *
                       num_heads * plan.max_units;
  Partials partials{};
  if (plan.max_units > 1) {
    partials.out = context.scratch_for<float>(rows * (args.kv.value_head_dim + 2), "attention");
    partials.stats = reinterpret_cast<Stats*>(partials.out + rows * args.kv.value_head_dim);
  }
  for (int first = 0; first < args.batch.num_spans; first += spans_a_launch) {
    const int num_spans = std::min(spans_a_launch, args.batch.num_spans - first);
    const int num_blocks = num_spans * kv_heads * plan.max_units;
    with_head_dims(args.kv, [&](auto head_dim, auto value_dim) {
      launch("attention", context, single_tokens_kernel<head_dim, value_dim>,
             static_cast<unsigned>(num_blocks), kThreads,
             Shared<head_dim, value_dim>::kBytes + plan.unit_pages * kStepsAPage * sizeof(Step),
             Rows<const BFloat16>(args.q), Rows<BFloat16>(args.out), KvPages<BFloat16>(args.kv),
             DeviceBatch(args.batch), first, args.window, num_heads / kv_heads, args.scale * kLog2E,
             plan, partials, context.counters, num_blocks <= context.device->num_sms);
    });
  }
}

}  // namespace hymba::cuda
