// The arguments of a stage as JavaScript passes them, read field by field into an Args struct.
#pragma once

#include <initializer_list>
#include <string>

#include "addon/kernel_heap.h"
#include "addon/napi_setup.h"
#include "ops/ops.h"

namespace hymba {

// Reads fields of one object; lib/kernels/stages.ts has checked their JavaScript types. What a
// stage would take on trust is checked here: that a view lies inside of its memory, and has the
// rank, the dtype and the density that the stage reads it with. How the shapes fit together is
// checked by the stage itself (ops_check.cpp).
//
// Throws kInvalidArgument with the names of the stage and the field; kDisposed.
class KernelArgs {
 public:
  KernelArgs(const std::string& stage, Napi::Object fields, const KernelHeap& heap)
      : stage_(stage), fields_(fields), heap_(heap) {}

  // Rows of activations, possibly strided: fp32 or bf16, or of exactly one dtype.
  TensorView rows(const char* name, int rank) const;
  TensorView rows(const char* name, int rank, DType dtype) const;
  // A view without gaps.
  TensorView dense(const char* name, int rank, DType dtype) const;
  // Empty when the field is missing.
  TensorView optional_rows(const char* name, int rank) const;
  TensorView optional_dense(const char* name, int rank, DType dtype) const;

  Matrix matrix(const char* name) const;
  Matrix optional_matrix(const char* name) const;
  // A factor of a product with `in`, whose dtype it must have been imported for.
  Matrix matrix_for(const char* name, const TensorView& in) const;

  float number(const char* name) const;
  int integer(const char* name) const;
  bool flag(const char* name) const;  // a missing one is false
  std::string text(const char* name) const;

  // Whether there is such a field.
  bool has(const char* name) const { return !fields_.Get(name).IsUndefined(); }

  BatchView batch() const;
  KvLayerView kv() const;

  // The fields of the object `name`.
  KernelArgs nested(const char* name) const {
    return KernelArgs(stage_ + ": " + name, fields_.Get(name).As<Napi::Object>(), heap_);
  }
  // The name of the field that is there, of two.
  const char* either(const char* one, const char* other) const {
    if (has(one) == has(other))
      fail(ErrorCode::kInvalidArgument, stage_, ": takes ", one, " or ", other);
    return has(one) ? one : other;
  }

 private:
  enum class Density { kDense, kStrided };

  TensorView view(const char* name, int rank, std::initializer_list<DType> dtypes,
                  Density density) const;
  template <typename... Parts>
  [[noreturn]] void refuse(const char* name, const Parts&... parts) const {
    fail(ErrorCode::kInvalidArgument, stage_, ": ", name, " ", parts...);
  }

  const std::string stage_;
  const Napi::Object fields_;
  const KernelHeap& heap_;
};

// The dtype that JavaScript calls "f32", "bf16", "f16", "i32" or "u16".
DType dtype_from_js(const Napi::Value& name);

}  // namespace hymba
