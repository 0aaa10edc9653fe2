// A few consecutive elements in registers, as they lie in memory: moved in 16-byte accesses where
// that is possible, one by one where a row is not aligned or ends early. Elements are addressed by
// constants only, so that they stay in registers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/tensor_view.h"
#include "cuda/device/convert.cuh"

namespace hymba::cuda {

template <typename T, int kCount>
struct Chunk {
  static constexpr int kBytes = kCount * sizeof(T);
  // What one access moves, and what an address must be a multiple of for it.
  static constexpr int kAccessBytes = kBytes < 16 ? kBytes : 16;
  static constexpr int kWords = kBytes / 4;
  static_assert(kBytes % kAccessBytes == 0 && (kAccessBytes == 8 || kAccessBytes == 16));

  uint32_t words[kWords];
};

// Whether every row of the view, or the view itself if it is a vector, can be moved chunk by chunk.
template <typename T, int kCount>
bool in_chunks(const TensorView& view) {
  constexpr uintptr_t kAlignment = Chunk<T, kCount>::kAccessBytes;
  const size_t row_bytes = view.rank() > 1 ? view.row_stride() * sizeof(T) : 0;
  return (reinterpret_cast<uintptr_t>(view.raw()) | row_bytes) % kAlignment == 0;
}

template <int kCount>
__device__ __forceinline__ float element(const Chunk<float, kCount>& chunk, int i) {
  return __uint_as_float(chunk.words[i]);
}
template <int kCount>
__device__ __forceinline__ float element(const Chunk<BFloat16, kCount>& chunk, int i) {
  return i % 2 == 0 ? low_bf16(chunk.words[i / 2]) : high_bf16(chunk.words[i / 2]);
}

template <typename T, int kCount>
__device__ __forceinline__ void unpack(float (&values)[kCount], const Chunk<T, kCount>& chunk) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = element(chunk, i);
}

template <int kCount>
__device__ __forceinline__ void pack(Chunk<float, kCount>& chunk, const float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) chunk.words[i] = __float_as_uint(values[i]);
}
template <int kCount>
__device__ __forceinline__ void pack(Chunk<BFloat16, kCount>& chunk,
                                     const float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) chunk.words[i / 2] = pack_bf16x2(values[i], values[i + 1]);
}

template <typename T, int kCount>
__device__ __forceinline__ Chunk<T, kCount> zero_chunk() {
  Chunk<T, kCount> chunk;
#pragma unroll
  for (int i = 0; i < Chunk<T, kCount>::kWords; ++i) chunk.words[i] = 0;
  return chunk;
}

// The elements at `from`, zeroes for those beyond the first `valid` (which may be 0 or less); reads
// nothing beyond them. `aligned`: `from` is a multiple of kAccessBytes.
template <int kCount, typename T>
__device__ __forceinline__ Chunk<T, kCount> load_chunk(const T* from, int valid, bool aligned) {
  using Loaded = Chunk<T, kCount>;
  Loaded chunk;
  if (aligned && valid >= kCount) {
    if constexpr (Loaded::kAccessBytes == 16) {
#pragma unroll
      for (int i = 0; i < Loaded::kWords; i += 4) {
        const uint4 part = reinterpret_cast<const uint4*>(from)[i / 4];
        chunk.words[i] = part.x;
        chunk.words[i + 1] = part.y;
        chunk.words[i + 2] = part.z;
        chunk.words[i + 3] = part.w;
      }
    } else {
      const uint2 part = *reinterpret_cast<const uint2*>(from);
      chunk.words[0] = part.x;
      chunk.words[1] = part.y;
    }
    return chunk;
  }
  float values[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = i < valid ? as_float(from[i]) : 0.0f;
  pack(chunk, values);  // exact: the values come from T
  return chunk;
}

// The first `valid` elements to `to`.
template <int kCount, typename T>
__device__ __forceinline__ void store_chunk(T* to, const Chunk<T, kCount>& chunk, int valid,
                                            bool aligned) {
  using Stored = Chunk<T, kCount>;
  if (aligned && valid >= kCount) {
    if constexpr (Stored::kAccessBytes == 16) {
#pragma unroll
      for (int i = 0; i < Stored::kWords; i += 4)
        reinterpret_cast<uint4*>(to)[i / 4] =
            make_uint4(chunk.words[i], chunk.words[i + 1], chunk.words[i + 2], chunk.words[i + 3]);
    } else {
      *reinterpret_cast<uint2*>(to) = make_uint2(chunk.words[0], chunk.words[1]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (i < valid) to[i] = as_act<T>(element(chunk, i));
}

template <int kCount, typename T>
__device__ __forceinline__ void store_values(T* to, const float (&values)[kCount], int valid,
                                             bool aligned) {
  Chunk<T, kCount> chunk;
  pack(chunk, values);
  store_chunk<kCount>(to, chunk, valid, aligned);
}

}  // namespace hymba::cuda
