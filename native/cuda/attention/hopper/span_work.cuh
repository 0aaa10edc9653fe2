// What a block of the attention to prompts works on, how it finds it, and how its copying warp
// hands it to those that multiply.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attention/span_tiles.cuh"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/views.cuh"
#include "cuda/gemm/hopper/ring.cuh"
#include "cuda/runtime/launch.h"

namespace hymba::cuda::hopper {

// A value that is the same for all lanes, and the compiler is to know it: descriptors are then kept
// in uniform registers.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(kAllLanes, value, 0); }

// A barrier tells only one phase from the next: no lane may go on, and bring about the one after
// that, before all have seen this one.
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
  __device__ __forceinline__ void put(RingPlace& place, const Item& item) {
    if (place.reused()) wait_together(&empty[place.stage()], place.parity() ^ 1);
    if (threadIdx.x % kWarp == 0) {
      items[place.stage()] = item;
      arrive_at(&full[place.stage()]);
    }
    place.advance();
  }
  __device__ __forceinline__ Item take(RingPlace& place) {
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

}  // namespace hymba::cuda::hopper
