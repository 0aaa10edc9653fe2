// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for the tokens of all spans of
// more than one token: prompts and their chunks. As spans.cu, by the matrix instructions of a
// warpgroup.
#include <algorithm>

#include "cuda/attention/kernels.h"
#include "cuda/attention/span_tiles.cuh"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/attention/warp_attention.cuh"
#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"
#include "cuda/gemm/hopper/ring.cuh"

namespace hymba::cuda {
namespace {

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kGroupRows = 64;
constexpr int kGroupWarps = kGroupThreads / kWarp;
constexpr int kStages = 6;

template <int kHeadDim_, int kValueDim_>
struct Config {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kValueDim = kValueDim_;
  // What queries of 128 elements leave of the registers is not enough for three.
  static constexpr int kWarpgroups = kHeadDim == 64 ? 3 : 2;
  static constexpr int kRows = kWarpgroups * kGroupRows;
  static constexpr int kReaderWarps = kWarpgroups * kGroupWarps;
  static constexpr int kThreads = (kWarpgroups + 1) * kGroupThreads;
  // Of a thread at launch, of one that multiplies, and of one that copies.
  static constexpr int kLaunchRegisters = 64 * 1024 / kThreads / 8 * 8;
  static constexpr int kReaderRegisters = kWarpgroups == 3 ? 160 : 232;
  static constexpr int kCopierRegisters =
      (kWarpgroups + 1) * kLaunchRegisters - kWarpgroups * kReaderRegisters;
  static_assert(kCopierRegisters == (kWarpgroups == 3 ? 32 : 40));
  static constexpr int kPanelRowBytes = kPanelElements * int{sizeof(BFloat16)};
  static constexpr int kPanelBytes = kPageTokens * kPanelRowBytes;
  static constexpr int kKeyPanels = kHeadDim / kPanelElements;
  static constexpr int kPanels = kKeyPanels + kValueDim / kPanelElements;
  static constexpr int kStageBytes = kPanels * kPanelBytes;
  static constexpr int kOutBytes = kRows * kValueDim * int{sizeof(BFloat16)};
  static constexpr int kBytes = kStages * kStageBytes + kOutBytes;
};

// Copies what a tile sees of a page, slots [first, end), and fills up V with zeroes: nobody may
// have written there, and not even a probability of 0 would keep a NaN out of the sum. By a whole
// warp.
template <typename Config>
__device__ __forceinline__ void copy_page(char* stage, const BFloat16* page, int first, int end,
                                          Barrier* full) {
  const int lane = threadIdx.x % kWarp;
  if (first == 0 && end == kPageTokens) {
    if (lane == 0) {
      arrive_expecting(full, Config::kStageBytes);
      copy_bulk(stage, page, Config::kStageBytes, full);
    }
    return;
  }
  constexpr int kLine = kWarp * int{sizeof(uint4)};
#pragma unroll 1
  for (int offset = Config::kKeyPanels * Config::kPanelBytes; offset < Config::kStageBytes;
       offset += kLine) {
    const int at = offset + lane * int{sizeof(uint4)};
    const int slot = at / Config::kPanelRowBytes % kPageTokens;
    if (slot < first || slot >= end) *reinterpret_cast<uint4*>(stage + at) = uint4{};
  }
  fence_before_copies();
  __syncwarp();
  if (lane == 0) {
    const int bytes = (end - first) * Config::kPanelRowBytes;
    arrive_expecting(full, Config::kPanels * bytes);
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const int offset = panel * Config::kPanelBytes + first * Config::kPanelRowBytes;
      copy_bulk(stage + offset, reinterpret_cast<const char*>(page) + offset, bytes, full);
    }
  }
}

// The queries of a warp's 16 rows as the products take them; zeroes from num_rows on.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(uint32_t (&queries)[kHeadDim / 16][4],
                                             const Rows<const BFloat16>& q, const SpanTile& tile,
                                             int first_row, int first_head, int group, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + lane / 4;
    const bool valid = row < tile.num_tokens * group;
    const BFloat16* const elements = q[tile.first_token + (valid ? row / group : 0)] +
                                     (first_head + (valid ? row % group : 0)) * kHeadDim +
                                     lane % 4 * 2;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        queries[step][2 * i + half] =
            valid ? *reinterpret_cast<const uint32_t*>(elements + step * 16 + i * 8) : 0;
  }
}

// A thread's share of the scores of 64 rows against a page, or of their sums over values: with
// g = lane / 4 and t = lane % 4, [i] has rows g (elements 0, 1) and g + 8 (2, 3) of the warp,
// columns 8·i + 2·t and the next.
template <int kCols>
using RowPart = float[kCols / 8][4];

// What a thread knows of its rows g and g + 8.
struct RowSums {
  float max[2] = {negative_infinity(), negative_infinity()};  // of scale · log2 e · score
  float sum[2] = {0.0f, 0.0f};  // of the probabilities in this thread's columns
  float rescale[2];  // what the sums over values of earlier pages are to be multiplied by

  // Turns the scores of a page into probabilities relative to the row's new maximum. As
  // WarpAttention::add_scores.
  __device__ __forceinline__ void add(RowPart<kPageTokens>& scores, float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float page_max = negative_infinity();
#pragma unroll
      for (int i = 0; i < kPageTokens / 8; ++i)
        page_max = fmaxf(page_max, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
      page_max = fmaxf(page_max, __shfl_xor_sync(kAllLanes, page_max, 1));
      page_max = fmaxf(page_max, __shfl_xor_sync(kAllLanes, page_max, 2));
      const float new_max = fmaxf(max[half], page_max * scale_log2);
      // A row that has seen nothing: every exponent is -∞, and so must stay.
      const float base = new_max == negative_infinity() ? 0.0f : new_max;
      rescale[half] = exp2_approx(max[half] - base);
      max[half] = new_max;
      float page_sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kPageTokens / 8; ++i)
#pragma unroll
        for (int element = 2 * half; element < 2 * half + 2; ++element) {
          scores[i][element] = exp2_approx(fmaf(scores[i][element], scale_log2, -base));
          page_sum += scores[i][element];
        }
      sum[half] = fmaf(sum[half], rescale[half], page_sum);
    }
  }

  template <int kCols>
  __device__ __forceinline__ void rescale_values(RowPart<kCols>& values) const {
    if (!__any_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kCols / 8; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element) values[i][element] *= rescale[element / 2];
  }

  // The sum over the whole row, in every thread that has a part of it.
  __device__ __forceinline__ float row_sum(int half) const {
    float total = sum[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    return total;
  }
};

template <int kCols>
__device__ __forceinline__ float (&flat(RowPart<kCols>& part))[kCols / 2] {
  return reinterpret_cast<float(&)[kCols / 2]>(part);
}

// The products of a warpgroup with the pages of a ring.
template <typename Config>
class PageProducts {
 public:
  __device__ __forceinline__ explicit PageProducts(const char* ring)
      : first_keys_(describe_operand(ring, 8 * Config::kPanelRowBytes)),
        first_values_(describe_transposed(ring + Config::kKeyPanels * Config::kPanelBytes,
                                          Config::kPanelBytes)) {}

  // scores = queries · Kᵀ
  __device__ __forceinline__ void score(RowPart<kPageTokens>& scores,
                                        const uint32_t (&queries)[Config::kHeadDim / 16][4],
                                        int stage) const {
    constexpr int kStepBytes = 16 * int{sizeof(BFloat16)};
    const uint64_t keys = first_keys_ + static_cast<uint32_t>(stage * kStageUnits);
    multiply_held_async<kPageTokens, false, false>(flat<kPageTokens>(scores), queries[0], keys);
#pragma unroll
    for (int step = 1; step < Config::kHeadDim / 16; ++step)
      multiply_held_async<kPageTokens, true, false>(
          flat<kPageTokens>(scores), queries[step],
          keys + (step / 4 * Config::kPanelBytes + step % 4 * kStepBytes) / kOperandUnit);
    commit_products();
  }

  // values += probabilities · V
  __device__ __forceinline__ void add_values(RowPart<Config::kValueDim>& values,
                                             const uint32_t (&probabilities)[kPageTokens / 16][4],
                                             int stage) const {
    constexpr int kStepBytes = 16 * Config::kPanelRowBytes;
    const uint64_t page = first_values_ + static_cast<uint32_t>(stage * kStageUnits);
#pragma unroll
    for (int step = 0; step < kPageTokens / 16; ++step)
      multiply_held_async<Config::kValueDim, true, true>(flat<Config::kValueDim>(values),
                                                         probabilities[step],
                                                         page + step * kStepBytes / kOperandUnit);
    commit_products();
  }

 private:
  static constexpr int kStageUnits = Config::kStageBytes / kOperandUnit;

  uint64_t first_keys_;
  uint64_t first_values_;
};

// A value that is the same for all lanes, and the compiler is to know it: descriptors are then kept
// in uniform registers.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(kAllLanes, value, 0); }

// A barrier tells only one phase from the next: no lane may go on, and bring about the one after that,
// before all have seen this one.
__device__ __forceinline__ void wait_together(Barrier* barrier, uint32_t parity) {
  wait_for_phase(barrier, parity);
  __syncwarp();
}

// What the copier of a block hands to the warps that multiply.
struct Item {
  SpanTile tile;
  int first_position;  // of the tile's tokens
  int kv_head;
};

struct Work : Item {
  VisiblePages pages;
  int group;

  __device__ __forceinline__ Work(const Item& item, const KvPages<BFloat16>& kv, int window,
                                  int group_)
      : Item(item), pages(kv, window, item.first_position, last_position()), group(group_) {}

  __device__ __forceinline__ int num_rows() const { return tile.num_tokens * group; }
  __device__ __forceinline__ int last_position() const {
    return first_position + tile.num_tokens - 1;
  }
  // Rows behind the last one are computed like it, and not stored.
  __device__ __forceinline__ int position(int row) const {
    return first_position + min(row, num_rows() - 1) / group;
  }
};

// Holds an item until all warps have taken it, while the next one is waited for.
struct Mailbox {
  static constexpr int kSlots = 2;
  Item items[kSlots];
  Barrier full[kSlots];
  Barrier empty[kSlots];

  __device__ __forceinline__ void init(int readers) {
    for (int slot = 0; slot < kSlots; ++slot) {
      init_barrier(&full[slot], 1);
      init_barrier(&empty[slot], readers);
    }
  }
  // By whole warps.
  __device__ __forceinline__ void put(hopper::RingPlace& place, const Item& item) {
    if (place.reused()) wait_together(&empty[place.stage()], place.parity() ^ 1);
    if (threadIdx.x % kWarp == 0) {
      items[place.stage()] = item;
      arrive_at(&full[place.stage()]);
    }
    place.advance();
  }
  __device__ __forceinline__ Item take(hopper::RingPlace& place) {
    wait_together(&full[place.stage()], place.parity());
    const Item& held = items[place.stage()];
    const Item item = {
        {uniform(held.tile.span), uniform(held.tile.first_token), uniform(held.tile.num_tokens)},
        uniform(held.first_position),
        uniform(held.kv_head)};
    if (threadIdx.x % kWarp == 0) arrive_at(&empty[place.stage()]);
    place.advance();
    return item;
  }
};

struct Shared {
  hopper::RingBarriers ring;
  Mailbox mailbox;
};

// The tiles of all spans of more than one token. By a whole warp.
class TileList {
 public:
  __device__ __forceinline__ TileList(const DeviceBatch& batch, int tile_tokens)
      : batch_(batch), tile_tokens_(tile_tokens) {}

  __device__ __forceinline__ int count() const {
    int tiles = 0;
    for (int span = threadIdx.x % kWarp; span < batch_.num_spans; span += kWarp)
      tiles += tiles_of(span);
    return __reduce_add_sync(kAllLanes, tiles);
  }

  // Counted from the end.
  __device__ __forceinline__ SpanTile find(int index) const {
    const int lane = threadIdx.x % kWarp;
    for (int last = batch_.num_spans - 1;; last -= kWarp) {
      int end = last >= lane ? tiles_of(last - lane) : 0;  // of this lane's span, so counted
#pragma unroll
      for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const int before = __shfl_up_sync(kAllLanes, end, lanes);
        if (lane >= lanes) end += before;
      }
      const uint32_t found = __ballot_sync(kAllLanes, index < end);
      if (found != 0) {
        const int owner = __ffs(static_cast<int>(found)) - 1;
        const int tile = __shfl_sync(kAllLanes, end, owner) - 1 - index;
        const int first_token = batch_.span_offsets[last - owner] + tile * tile_tokens_;
        return {last - owner, first_token,
                min(tile_tokens_, batch_.span_offsets[last - owner + 1] - first_token)};
      }
      index -= __shfl_sync(kAllLanes, end, kWarp - 1);
    }
  }

 private:
  __device__ __forceinline__ int tiles_of(int span) const {
    const int tokens = batch_.span_offsets[span + 1] - batch_.span_offsets[span];
    return tokens == 1 || batch_.padded(span) ? 0 : ceil_div(tokens, tile_tokens_);
  }

  const DeviceBatch& batch_;
  int tile_tokens_;
};

// Copies the pages of an item to the ring. By one warp.
template <typename Config>
__device__ __forceinline__ void copy_pages(char* ring, hopper::RingBarriers& barriers,
                                           hopper::RingPlace& place, const KvPages<BFloat16>& kv,
                                           const Work& work) {
  const VisiblePages& pages = work.pages;
  const int lane = threadIdx.x % kWarp;
  int page_ids = 0;  // of 32 pages, one a lane
  for (int page = 0; page < pages.count(); ++page, place.advance()) {
    if (page % kWarp == 0 && page + lane < pages.count())
      page_ids = kv.page(work.tile.span, pages.column(page + lane));
    const int page_id = __shfl_sync(kAllLanes, page_ids, page % kWarp);
    if (place.reused()) wait_together(&barriers.empty[place.stage()], place.parity() ^ 1);
    copy_page<Config>(ring + place.stage() * Config::kStageBytes, kv.tile(page_id, work.kv_head),
                      pages.first_slot(page, work.first_position),
                      pages.end_slot(page, work.last_position()), &barriers.full[place.stage()]);
  }
}

// The pages of a ring as the rows of one warpgroup meet them.
class PageReader {
 public:
  // A warpgroup that has no rows sees nothing, and lets all pages pass.
  __device__ __forceinline__ PageReader(hopper::RingBarriers& barriers, int pages_before,
                                        const Work& work, int first_row)
      : barriers_(barriers),
        pages_(work.pages),
        place_(kStages, uniform(pages_before)),
        first_position_(work.position(first_row)),
        last_position_(first_row < work.num_rows() ? work.position(first_row + kGroupRows - 1)
                                                   : -1) {}

  // Waits for the next page that any of the rows sees. False: there is none.
  __device__ __forceinline__ bool find() {
    for (; page_ < pages_.count(); leave()) {
      wait_together(&barriers_.full[stage()], place_.parity());
      if (pages_.first_slot(page_, first_position_) < kPageTokens &&
          pages_.end_slot(page_, last_position_) > 0)
        return true;
      release(stage());
    }
    return false;
  }
  __device__ __forceinline__ int stage() const { return place_.stage(); }
  __device__ __forceinline__ void leave() {
    ++page_;
    place_.advance();
  }
  // What was in it has been read.
  __device__ __forceinline__ void release(int stage) {
    if (threadIdx.x % kWarp == 0) arrive_at(&barriers_.empty[stage]);
  }

  // Hides the keys that rows at these positions, g and g + 8, do not see. By selection: the score
  // of a slot that nobody has written may be anything.
  __device__ __forceinline__ void hide_keys(RowPart<kPageTokens>& scores, const int (&positions)[2],
                                            int own_col) const {
    if (pages_.first_slot(page_, last_position_) == 0 &&
        pages_.end_slot(page_, first_position_) == kPageTokens)
      return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Relative to the thread's first column: what is left to compare with are constants.
      const int first = pages_.first_slot(page_, positions[half]) - own_col;
      const int end = pages_.end_slot(page_, positions[half]) - own_col;
#pragma unroll
      for (int i = 0; i < kPageTokens / 8; ++i)
#pragma unroll
        for (int element = 0; element < 2; ++element)
          if (8 * i + element < first || 8 * i + element >= end)
            scores[i][2 * half + element] = negative_infinity();
    }
  }

 private:
  hopper::RingBarriers& barriers_;
  const VisiblePages& pages_;
  hopper::RingPlace place_;
  int first_position_;
  int last_position_;
  int page_ = 0;
};

__device__ __forceinline__ void pack_probabilities(uint32_t (&probabilities)[kPageTokens / 16][4],
                                                   const RowPart<kPageTokens>& scores) {
#pragma unroll
  for (int step = 0; step < kPageTokens / 16; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      probabilities[step][i] =
          pack_bf16x2(scores[2 * step + i / 2][i % 2 * 2], scores[2 * step + i / 2][i % 2 * 2 + 1]);
}

// A warp's rows of an item, together with the warpgroup's others.
template <typename Config>
__device__ __forceinline__ void attend(char* ring, hopper::RingBarriers& barriers, int pages_before,
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
  __shared__ Shared shared;
  if (threadIdx.x == 0) {
    shared.mailbox.init(Config::kReaderWarps);
    shared.ring.init(kStages, Config::kReaderWarps);
  }
  __syncthreads();
  wait_for_predecessor();

  const int warp = __shfl_sync(kAllLanes, threadIdx.x / kWarp, 0);
  hopper::RingPlace item_place(Mailbox::kSlots);
  if (warp >= Config::kReaderWarps) {
    keep_registers<Config::kCopierRegisters>();
    if (warp > Config::kReaderWarps) return;
    hopper::RingPlace place(kStages);
    const TileList tiles(batch, Config::kRows / group);
    const int num_items = tiles.count() * kv.num_kv_heads;
    for (int idx = blockIdx.x; idx < num_items;) {
      // Asked for now, as the answer takes its time. All items are asked for once more.
      uint32_t ticket = 0;
      if (threadIdx.x % kWarp == 0)
        ticket = atomicInc(tickets, static_cast<uint32_t>(num_items) - 1);
      const SpanTile tile = tiles.find(idx / kv.num_kv_heads);
      const Item item = {tile, batch.positions[tile.first_token], idx % kv.num_kv_heads};
      shared.mailbox.put(item_place, item);
      copy_pages<Config>(ring, shared.ring, place, kv, Work(item, kv, window, group));
      idx = static_cast<int>(gridDim.x + __shfl_sync(kAllLanes, ticket, 0));
    }
    shared.mailbox.put(item_place, {});
  } else {
    take_registers<Config::kReaderRegisters>();
    for (int pages_before = 0;;) {
      const Item item = shared.mailbox.take(item_place);
      if (item.tile.num_tokens == 0) return;
      const Work work(item, kv, window, group);
      attend<Config>(ring, shared.ring, pages_before, q, out, work, warp, scale_log2);
      pages_before += work.pages.count();
    }
  }
}

}  // namespace

void attend_spans_sm90(const AttentionArgs& args, const LaunchContext& context) {
  const int kv_heads = args.kv.num_kv_heads;
  const int group = static_cast<int>(args.q.dim(1)) / kv_heads;
  with_head_dims(args.kv, [&](auto head_dim, auto value_dim) {
    using Shape = Config<head_dim, value_dim>;
    const int64_t items = count_span_tiles(args.batch, Shape::kRows / group) * kv_heads;
    const int64_t blocks = std::min<int64_t>(items, context.device->num_sms);
    launch("attention", context, spans_kernel<Shape>, static_cast<unsigned>(blocks),
           Shape::kThreads, Shape::kBytes, Rows<const BFloat16>(args.q), Rows<BFloat16>(args.out),
           KvPages<BFloat16>(args.kv), DeviceBatch(args.batch), args.window, group,
           args.scale * kLog2E, context.counters);
  });
}

}  // namespace hymba::cuda
