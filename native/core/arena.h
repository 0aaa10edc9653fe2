// Plans one slab of memory: first counts, then hands out pointers into it, by running the same code
// twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/error.h"
#include "core/tensor_view.h"

namespace hymba {

class Arena {
 public:
  // Every piece starts on a multiple of this: a 128-byte line of the GPU's L2 and two lines of a
  // CPU's, and enough for any vector load or bulk copy.
  static constexpr size_t kAlignment = 256;

  // Counts only: `take` returns views without memory.
  Arena() = default;

  // Hands out pieces of `slab`, which holds `capacity` bytes as an earlier counting run found them.
  Arena(void* slab, size_t capacity) : base_(static_cast<char*>(slab)), capacity_(capacity) {}

  TensorView take(DType dtype, std::initializer_list<int64_t> shape) {
    const size_t bytes = TensorView(nullptr, dtype, shape).bytes();
    return TensorView(take_bytes(bytes), dtype, shape);
  }

  void* take_bytes(size_t bytes) {
    const size_t offset = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (base_ == nullptr) return nullptr;
    check(used_ <= capacity_, "Arena: ", used_, " bytes taken of ", capacity_);
    return base_ + offset;
  }

  size_t bytes() const { return used_; }

 private:
  char* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
};

}  // namespace hymba
