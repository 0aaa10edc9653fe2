// From a dtype known at run time to a type known at compile time.
#pragma once

#include "core/dtype.h"
#include "core/error.h"

namespace hymba::cuda {

// Calls f(float{}) or f(BFloat16{}): the two types that activations have.
template <typename F>
void with_act_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(BFloat16{});
    default:
      fail(ErrorCode::kInternal, "activations in ", dtype_name(dtype));
  }
}

}  // namespace hymba::cuda
