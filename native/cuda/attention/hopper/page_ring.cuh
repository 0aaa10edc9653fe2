// The ring that pages of K/V pass through in shared memory: one warp copies ahead, those that
// multiply read.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attention/hopper/row_parts.cuh"
#include "cuda/attention/hopper/span_config.cuh"
#include "cuda/attention/hopper/span_work.cuh"
#include "cuda/device/ptx_sm90.cuh"
#include "cuda/gemm/hopper/ring.cuh"

namespace hymba::cuda::hopper {

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

// Copies the pages of an item to the ring. By one warp.
template <typename Config>
__device__ __forceinline__ void copy_pages(char* ring, RingBarriers& barriers, RingPlace& place,
                                           const KvPages<BFloat16>& kv, const Work& work) {
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
  __device__ __forceinline__ PageReader(RingBarriers& barriers, int pages_before, const Work& work,
                                        int first_row)
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
  RingBarriers& barriers_;
  const VisiblePages& pages_;
  RingPlace place_;
  int first_position_;
  int last_position_;
  int page_ = 0;
};

}  // namespace hymba::cuda::hopper
