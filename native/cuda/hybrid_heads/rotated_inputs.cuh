// Queries of a step of decoding as in_proj leaves them, rotated on the way to shared memory; in a
// layer with K/V of its own also the token's key and value, which go to their page and to the block
// that visits it. The arithmetic is rotary_kv_write's: the same bits.
#pragma once

#include "cuda/attention/unit_attention.cuh"
#include "cuda/device/chunk.cuh"
#include "cuda/device/rope.cuh"

namespace hymba::cuda {

template <int kHeadDim, int kValueDim>
struct RotatedInputs {
  static constexpr bool kBringsKeys = true;

  Rows<const BFloat16> q;
  Rows<const BFloat16> k;  // null in a consumer, and v too
  Rows<const BFloat16> v;
  Rows<const float> cos_sin;  // null: no rotation

  explicit RotatedInputs(const RotaryKvWriteArgs& args)
      : q(args.q), k(args.k), v(args.v), cos_sin(args.cos_sin) {}

  // Every span has one token.
  __device__ __forceinline__ int token(int span) const { return span; }
  __device__ __forceinline__ bool brings_key() const { return k.data != nullptr; }

  __device__ __forceinline__ void bring(BFloat16* queries, const UnitToken& at, int group,
                                        const OwnSlot* own) const {
    const float* const angles = cos_sin.data == nullptr ? nullptr : cos_sin[at.position];
    // A thread a part of a query.
    const int row = threadIdx.x / kParts;
    const int part = threadIdx.x % kParts;
    if (row < kRowTile) {
      RotatedPart rotated{zero_chunk<BFloat16, kChunkElements>(),
                          zero_chunk<BFloat16, kChunkElements>()};
      if (row < group)
        rotated = rotate_part(q[at.token] + (at.kv_head * group + row) * kHeadDim, part, angles);
      store(queries + shared_chunk<kRowTile>(row, part), rotated.low);
      store(queries + shared_chunk<kRowTile>(row, part + kParts), rotated.high);
    }
    if (own == nullptr) return;
    // The key and the value by the last threads, which mostly have no query.
    const int item = kAttentionThreads - 1 - static_cast<int>(threadIdx.x);
    if (item < kParts) {
      const RotatedPart rotated = rotate_part(k[at.token] + at.kv_head * kHeadDim, item, angles);
      put_own(rotated.low, own->tile, own->shared, item, kHeadDim, own->slot);
      put_own(rotated.high, own->tile, own->shared, item + kParts, kHeadDim, own->slot);
    } else if (item < kParts + kValueDim / kChunkElements) {
      const int chunk = item - kParts;
      const BFloat16* const value = v[at.token] + at.kv_head * kValueDim + chunk * kChunkElements;
      put_own(load_chunk<kChunkElements>(value, kChunkElements, true),
              own->tile + kPageTokens * kHeadDim, own->shared + kHeadDim, chunk, kValueDim,
              own->slot);
    }
  }

 private:
  // Of a head: 8 elements of its lower half and the 8 that they rotate with.
  static constexpr int kParts = kHeadDim / (2 * kRopeElements);
  static_assert(kRopeElements == kChunkElements && kRowTile * kParts <= kAttentionThreads &&
                kParts + kValueDim / kChunkElements <= kAttentionThreads);
  using HeadChunk = Chunk<BFloat16, kChunkElements>;
  struct RotatedPart {
    HeadChunk low;
    HeadChunk high;
  };

  static __device__ __forceinline__ RotatedPart rotate_part(const BFloat16* head, int part,
                                                            const float* angles) {
    constexpr int kHalf = kHeadDim / 2;
    const int low = part * kChunkElements;
    RotatedPart chunks{load_chunk<kChunkElements>(head + low, kChunkElements, true),
                       load_chunk<kChunkElements>(head + kHalf + low, kChunkElements, true)};
    if (angles == nullptr) return chunks;
    HeadPart values;
    unpack(values.low, chunks.low);
    unpack(values.high, chunks.high);
    rotate(values, angles + low, angles + kHalf + low);
    pack(chunks.low, values.low);
    pack(chunks.high, values.high);
    return chunks;
  }

  static __device__ __forceinline__ void store(BFloat16* to, const HeadChunk& chunk) {
    store_chunk(to, chunk, kChunkElements, true);
  }

  // A chunk of K or V of the own slot, to its page and to the block.
  static __device__ __forceinline__ void put_own(const HeadChunk& chunk, BFloat16* page,
                                                 BFloat16* shared, int index, int dim, int slot) {
    store(page + kv_element(slot, index * kChunkElements, dim), chunk);
    store(shared + index * kChunkElements, chunk);
  }
};

}  // namespace hymba::cuda
