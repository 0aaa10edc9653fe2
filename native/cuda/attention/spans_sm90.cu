// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for the tokens of all spans of
//           more than one token: prompts and their chunks. As spans.cu, by the matrix instructions
//           of a warpgroup.
// Shapes    q [T, H, Dk] bf16, rows strided, out [T, H, Dv] bf16; Dk and Dv 64 or 128; K and V in
//           pages (device/kv_pages.cuh).
// Mapping   A tile is 192 rows of one K/V head, 128 where Dk is 128, a row being (token, head of
//           the group), token-major: with 5 heads a group, 38 tokens. 64 rows a warpgroup, which
//           leaves out the pages that none of them sees. One more warp copies pages ahead, in the
//           order of VisiblePages. As many blocks as multiprocessors take tiles one after the
//           other, those first that come last in their span and see most; the copying warp takes
//           the next one while the others are still at the one before. Queries and probabilities
//           stay in registers. A warpgroup asks for the scores of a page and for the sums over the
//           values of the one before, and turns the scores into probabilities while the tensor
//           cores are at the values.
// Shared    Six stages of a page, K [64][Dk] and V [64][Dv], as they lie in memory: K is the
//           operand as wgmma wants it, V the same transposed. Then the output on its way to 16-byte
//           stores.
// Numerics  As spans.cu, but 64 keys share a maximum: the bits are others. A token's result does
//           not depend on the tile that it falls in, nor on how a prompt was cut into chunks: keys
//           that a row does not see change nothing in it.
// Limits    Groups of up to 16 heads.
// Cost      2·(Dk + Dv) flops a head, token and key. At 64/128 a page costs a tile 24 KB from the
//           L2, 1,152 clocks of the tensor cores, and 770 of the exponentials.

#include <algorithm>

#include "cuda/attention/hopper/page_ring.cuh"
#include "cuda/attention/hopper/row_parts.cuh"
#include "cuda/attention/hopper/span_config.cuh"
#include "cuda/attention/hopper/span_work.cuh"
#include "cuda/attention/kernels.h"
#include "cuda/attention/span_tiles.cuh"
#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda::hopper {
namespace {

// A warp's rows of an item, together with the warpgroup's others.
template <typename Config>
__device__ __forceinline__ void attend(char* ring, RingBarriers& barriers, int pages_before,
                                       const Rows<const BFloat16>& q, const Rows<BFloat16>& out,
                                       const Work& work, int warp, float scale_log2) {
  PageReader pages(barriers, pages_before, work, warp / kGroupWarps * kGroupRows);
  if (!pages.find()) return;

  // Else what follows from it for the stores would be held through all items.
  const int lane = opaque(static_cast<int>(threadIdx.x) % kWarp);
  const int first_row = warp * kRowTile;
  const int first_head = work.kv_head * work.group;
  uint32_t queries[Config::kHeadDim / 16][4];
  load_queries<Config::kHeadDim>(queries, q, work.tile, first_row, first_head, work.group, lane);
  const int own_row = first_row + lane / 4;
  const int own_col = lane % 4 * 2;
  const int positions[2] = {work.position(own_row), work.position(own_row + 8)};

  const PageProducts<Config> products(ring);
  RowPart<kPageTokens> scores = {};
  RowPart<Config::kValueDim> values = {};
  uint32_t probabilities[kPageTokens / 16][4];
  RowSums sums;

  constexpr int kNone = -1;
  fence_accumulators();
  products.score(scores, queries, pages.stage());
  wait_for_products<0>();
  settle(flat<kPageTokens>(scores));
  pages.hide_keys(scores, positions, own_col);
  sums.add(scores, scale_log2);
  int stage = pages.stage();
  int read_stage = kNone;  // of the values that the tensor cores are at
  pages.leave();
  const auto finish_values = [&] {
    wait_for_products<0>();
    settle(flat<Config::kValueDim>(values));
    if (read_stage != kNone) pages.release(read_stage);
    pack_probabilities(probabilities, scores);
    sums.rescale_values<Config::kValueDim>(values);
  };
  // While the tensor cores are at the values of one page, the scores of the next one become
  // probabilities. Between these and the wait for the values is the wait for a page, a branch, over
  // which the compiler does not move the one before the others.
#pragma unroll 1
  while (pages.find()) {
    finish_values();
    fence_accumulators();
    products.score(scores, queries, pages.stage());
    products.add_values(values, probabilities, stage);
    wait_for_products<1>();
    settle(flat<kPageTokens>(scores));
    pages.hide_keys(scores, positions, own_col);
    sums.add(scores, scale_log2);
    settle(flat<kPageTokens>(scores));
    read_stage = stage;
    stage = pages.stage();
    pages.leave();
  }
  finish_values();
  fence_accumulators();
  products.add_values(values, probabilities, stage);
  wait_for_products<0>();
  settle(flat<Config::kValueDim>(values));
  pages.release(stage);

  __syncwarp();  // all lanes have stored the item before
  BFloat16* const staged = reinterpret_cast<BFloat16*>(ring + kStages * Config::kStageBytes);
  store_span_rows<1, Config::kValueDim>(
      reinterpret_cast<const float(&)[1][Config::kValueDim / 8][4]>(values),
      [&](int, int half) { return sums.row_sum(half); }, staged + first_row * Config::kValueDim,
      out, work.tile, first_row, first_head, work.group, lane);
}

// `tickets` counts the items that blocks took after their first, and is 0 again in the end.
template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    spans_kernel(Rows<const BFloat16> q, Rows<BFloat16> out, KvPages<BFloat16> kv,
                 DeviceBatch batch, int window, int group, float scale_log2, uint32_t* tickets) {
  allow_successor();
  char* const ring = dynamic_shared<char>();
  __shared__ Mailbox mailbox;
  __shared__ RingBarriers barriers;
  if (threadIdx.x == 0) {
    mailbox.init(Config::kReaderWarps);
    barriers.init(kStages, Config::kReaderWarps);
  }
  __syncthreads();
  wait_for_predecessor();

  const int warp = uniform(static_cast<int>(threadIdx.x) / kWarp);
  RingPlace item_place(Mailbox::kSlots);
  if (warp >= Config::kReaderWarps) {
    keep_registers<Config::kCopierRegisters>();
    if (warp > Config::kReaderWarps) return;
    RingPlace place(kStages);
    const TileList tiles(batch, Config::kRows / group);
    const int num_items = tiles.count() * kv.num_kv_heads;
    for (int idx = blockIdx.x; idx < num_items;) {
      // Asked for now, as the answer takes its time. All items are asked for once more.
      uint32_t ticket = 0;
      if (threadIdx.x % kWarp == 0)
        ticket = atomicInc(tickets, static_cast<uint32_t>(num_items) - 1);
      const SpanTile tile = tiles.find(idx / kv.num_kv_heads);
      const Item item = {tile, batch.positions[tile.first_token], idx % kv.num_kv_heads};
      mailbox.put(item_place, item);
      copy_pages<Config>(ring, barriers, place, kv, Work(item, kv, window, group));
      idx = static_cast<int>(gridDim.x + __shfl_sync(kAllLanes, ticket, 0));
    }
    mailbox.put(item_place, {});
  } else {
    take_registers<Config::kReaderRegisters>();
    for (int pages_before = 0;;) {
      const Item item = mailbox.take(item_place);
      if (item.tile.num_tokens == 0) return;
      const Work work(item, kv, window, group);
      attend<Config>(ring, barriers, pages_before, q, out, work, warp, scale_log2);
      pages_before += work.pages.count();
    }
  }
}

}  // namespace
}  // namespace hymba::cuda::hopper

namespace hymba::cuda {

void attend_spans_sm90(const AttentionArgs& args, const LaunchContext& context) {
  const int kv_heads = args.kv.num_kv_heads;
  const int group = static_cast<int>(args.q.dim(1)) / kv_heads;
  with_head_dims(args.kv, [&](auto head_dim, auto value_dim) {
    using Config = hopper::SpanConfig<head_dim, value_dim>;
    const int64_t items = count_span_tiles(args.batch, Config::kRows / group) * kv_heads;
    const int64_t blocks = std::min<int64_t>(items, context.device->num_sms);
    launch("attention", context, hopper::spans_kernel<Config>, static_cast<unsigned>(blocks),
           Config::kThreads, Config::kBytes, Rows<const BFloat16>(args.q), Rows<BFloat16>(args.out),
           KvPages<BFloat16>(args.kv), DeviceBatch(args.batch), args.window, group,
           args.scale * kLog2E, context.counters);
  });
}

}  // namespace hymba::cuda
