// Whether memory can be moved by 16 bytes, as tensor-core kernels do.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"

namespace hymba::cuda {

// Every row of the view, or the view itself if it is a vector, begins on a multiple of 16 bytes.
inline bool is_aligned(const TensorView& view) {
  constexpr uintptr_t kBytes = 16;
  const size_t row_bytes = view.rank() > 1 ? view.row_stride() * dtype_bytes(view.dtype()) : 0;
  return (reinterpret_cast<uintptr_t>(view.raw()) | row_bytes) % kBytes == 0;
}

}  // namespace hymba::cuda
