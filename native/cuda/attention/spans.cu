// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for the tokens of all spans of
//           more than one token: prompts and their chunks.
// Shapes    q [T, H, Dk] bf16, rows strided, out [T, H, Dv] bf16; Dk and Dv 64 or 128; K and V in
//           pages (device/kv_pages.cuh).
// Mapping   A block computes 128 rows of one K/V head, a row being (token, head of the group),
//           token-major: with 5 heads a group, 25 tokens. 4 warps of 32 rows: half as many as 16
//           rows each would need read every page from shared memory half as often. The rows go
//           through the pages that any of them sees, oldest first; a warp leaves out what none of
//           its rows sees. Blocks find their span on the device (span_tiles.cuh). The last tiles,
//           which see most, come first.
// Shared    Queries [128][Dk], then two stages of a page, K [64][Dk] and V [64][Dv], all swizzled:
//           a page comes in as it lies in memory while the one before is worked on. At the end the
//           output takes their place on its way to 16-byte stores.
// Numerics  Scores, maximum, sum and output in fp32, probabilities rounded to bf16 before they meet
//           V. A token's result does not depend on the tile that it falls in, nor on how a prompt
//           was cut into chunks: keys that a row does not see change nothing in it.
// Limits    Groups of up to 16 heads.
// Cost      2·(Dk + Dv) flops a head, token and key. Bound by mma.sync; at 64/128 a page costs a
//           block 24 KB of reads from shared memory a warp, 770 clocks of an SM, and about 1,300 of
//           the tensor cores. 24 KB from the L2 a page.

#include <type_traits>

#include "cuda/attention/kernels.h"
#include "cuda/attention/span_tiles.cuh"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/attention/warp_attention.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda {
namespace {

constexpr int kRows = 128;
constexpr int kRowTiles = 2;
constexpr int kWarpRows = kRowTiles * kRowTile;
constexpr int kThreads = kRows / kWarpRows * kWarp;
constexpr int kBlocksAnSm = 2;  // 255 registers a thread
constexpr int kStages = 2;

template <int kHeadDim, int kValueDim>
struct Shared {
  static constexpr int kQueryElements = kRows * kHeadDim;
  static constexpr int kKeyElements = kPageTokens * kHeadDim;
  static constexpr int kStageElements = kPageTokens * (kHeadDim + kValueDim);
  static constexpr int kBytes = (kQueryElements + kStages * kStageElements) * int{sizeof(BFloat16)};
  static_assert(kRows * kValueDim <= kStages * kStageElements, "the output fits into the stages");
  static_assert(kBytes <= 99 * 1024, "the smallest limit of the parts that we build for, sm_89's");
};

// Rows from num_rows on become zeroes.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(BFloat16* queries, const Rows<const BFloat16>& q,
                                             const SpanTile& tile, int first_head, int group) {
  constexpr int kRowChunks = kHeadDim / kChunkElements;
  const int num_rows = tile.num_tokens * group;
#pragma unroll
  for (int i = 0; i < kRows * kRowChunks; i += kThreads) {
    const int row = (i + static_cast<int>(threadIdx.x)) / kRowChunks;
    const int chunk = threadIdx.x % kRowChunks;
    const bool valid = row < num_rows;
    const int token = valid ? row / group : 0;
    const int head = valid ? first_head + row % group : first_head;
    copy_16_async(queries + shared_chunk<kRows>(row, chunk),
                  q[tile.first_token + token] + head * kHeadDim + chunk * kChunkElements,
                  valid ? 16 : 0);
  }
}

// Slots outside [first, end) become zeroes: nobody may have written there, and not even a
// probability of 0 would keep a NaN out of the sum.
template <int kHeadDim, int kValueDim>
__device__ __forceinline__ void load_page(BFloat16* stage, const BFloat16* page, int first,
                                          int end) {
#pragma unroll
  for (int i = 0; i < kPageTokens * (kHeadDim + kValueDim); i += kThreads * kChunkElements) {
    const int offset = i + static_cast<int>(threadIdx.x) * kChunkElements;
    const int slot = offset / kPanelElements % kPageTokens;
    copy_16_async(stage + offset, page + offset, slot >= first && slot < end ? 16 : 0);
  }
}

template <int kHeadDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm)
    spans_kernel(Rows<const BFloat16> q, Rows<BFloat16> out, KvPages<BFloat16> kv,
                 DeviceBatch batch, int window, int group, float scale_log2) {
  using Memory = Shared<kHeadDim, kValueDim>;
  allow_successor();
  wait_for_predecessor();
  const int kv_head = blockIdx.x % kv.num_kv_heads;
  const int tile_idx = (gridDim.x - 1 - blockIdx.x) / kv.num_kv_heads;
  const SpanTile tile = find_span_tile(batch, tile_idx, kRows / group);
  if (tile.num_tokens == 0) return;

  const int first_head = kv_head * group;
  const int num_rows = tile.num_tokens * group;
  const int first_position = batch.positions[tile.first_token];
  const int last_position = first_position + tile.num_tokens - 1;
  const VisiblePages pages(kv, window, first_position, last_position);

  // Of each row; here and not in registers, of which there are none left.
  __shared__ int row_positions[kRows];
  static_assert(kRows == kThreads);
  row_positions[threadIdx.x] =
      first_position + min(static_cast<int>(threadIdx.x), num_rows - 1) / group;

  BFloat16* const queries = dynamic_shared<BFloat16>();
  BFloat16* const stages = queries + Memory::kQueryElements;
  const auto load = [&](int page) {
    load_page<kHeadDim, kValueDim>(stages + page % kStages * Memory::kStageElements,
                                   kv.tile(kv.page(tile.span, pages.column(page)), kv_head),
                                   pages.first_slot(page, first_position),
                                   pages.end_slot(page, last_position));
    commit_copies();
  };
  load_queries<kHeadDim>(queries, q, tile, first_head, group);
  commit_copies();
  load(0);
  wait_copies<1>();
  __syncthreads();

  const int first_row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
  const SharedQueries<kRowTiles, kRows> shared_queries(queries, first_row);
  // With 128 elements they would not fit in beside the output.
  using Queries = std::conditional_t<kHeadDim == 64, HeldQueries<kRowTiles, kHeadDim>,
                                     SharedQueries<kRowTiles, kRows>>;
  const Queries warp_queries(shared_queries);
  WarpAttention<kRowTiles, kValueDim> state;

  for (int page = 0; page < pages.count(); ++page) {
    wait_copies<0>();
    __syncthreads();  // the page is here, and nobody reads the other stage any more
    if (page + 1 < pages.count()) load(page + 1);
    const BFloat16* const keys = stages + page % kStages * Memory::kStageElements;
    const BFloat16* const values = keys + Memory::kKeyElements;
    if (first_row >= num_rows) continue;
    const int warp_first = row_positions[first_row];
    const int warp_last = row_positions[first_row + kWarpRows - 1];
#pragma unroll 1
    for (int slot = 0; slot < kPageTokens; slot += kStepKeys) {
      if (pages.first_slot(page, warp_first) >= slot + kStepKeys ||
          pages.end_slot(page, warp_last) <= slot)
        continue;
      Scores<kRowTiles> scores;
      score_keys<kHeadDim, kPageTokens>(scores, warp_queries, keys + slot * kPanelElements);
      if (pages.first_slot(page, warp_last) > slot ||
          pages.end_slot(page, warp_first) < slot + kStepKeys) {
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int position = row_positions[first_row + t * kRowTile + half * 8 +
                                               static_cast<int>(threadIdx.x) % kWarp / 4];
            hide_keys(scores[t], half, pages.first_slot(page, position) - slot,
                      pages.end_slot(page, position) - slot);
          }
      }
      Probabilities<kRowTiles> probabilities;
      state.add_scores(probabilities, scores, scale_log2);
      state.template add_values<kPageTokens>(probabilities, values + slot * kPanelElements);
    }
  }

  __syncthreads();  // all have read the last page
  if (first_row < num_rows)
    store_span_rows<kRowTiles, kValueDim>(
        state.out, [&](int t, int half) { return state.row_sum(t, half); },
        stages + first_row * kValueDim, out, tile, first_row, first_head, group,
        static_cast<int>(threadIdx.x) % kWarp);
}

}  // namespace

void attend_spans(const AttentionArgs& args, const LaunchContext& context) {
  const int kv_heads = args.kv.num_kv_heads;
  const int group = static_cast<int>(args.q.dim(1)) / kv_heads;
  const int64_t tiles = count_span_tiles(args.batch, kRows / group);
  with_head_dims(args.kv, [&](auto head_dim, auto value_dim) {
    launch("attention", context, spans_kernel<head_dim, value_dim>,
           static_cast<unsigned>(tiles * kv_heads), kThreads, Shared<head_dim, value_dim>::kBytes,
           Rows<const BFloat16>(args.q), Rows<BFloat16>(args.out), KvPages<BFloat16>(args.kv),
           DeviceBatch(args.batch), args.window, group, args.scale * kLog2E);
  });
}

}  // namespace hymba::cuda
