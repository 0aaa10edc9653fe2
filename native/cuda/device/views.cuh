// What of the stages' views a kernel needs, by value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/ops.h"

namespace hymba::cuda {

// Rows of T, `stride` elements apart.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  Rows() = default;
  explicit Rows(const TensorView& view)
      : data(view.data<T>()), stride(view.empty() ? 0 : view.row_stride()) {}

  __device__ __forceinline__ T* operator[](int64_t row) const { return data + row * stride; }
};

// BatchView on the device. A span whose state slot is below 0 is a padded lane of a captured graph:
// its rows mean nothing, and it touches no cache.
struct DeviceBatch {
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* token_spans;
  const int32_t* span_offsets;
  const int32_t* state_source;
  const int32_t* state_slot;
  int num_tokens;
  int num_spans;

  explicit DeviceBatch(const BatchView& batch)
      : token_ids(batch.token_ids.data<int32_t>()),
        positions(batch.positions.data<int32_t>()),
        token_spans(batch.token_spans.data<int32_t>()),
        span_offsets(batch.span_offsets.data<int32_t>()),
        state_source(batch.state_source.data<int32_t>()),
        state_slot(batch.state_slot.data<int32_t>()),
        num_tokens(batch.num_tokens),
        num_spans(batch.num_spans) {}

  __device__ __forceinline__ bool padded(int span) const { return state_slot[span] < 0; }
};

}  // namespace hymba::cuda
