// What JavaScript has allocated on one KernelDevice: memory and matrices, known by numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "ops/ops.h"

namespace hymba {

// A matrix, and what holds its elements: memory of the backend, or the host's where the backend
// goes on reading from there.
struct KernelMatrix {
  Matrix matrix;
  DType act;  // of the activations that it was imported for
  std::unique_ptr<Slab> slab;
  std::vector<std::vector<char>> host_blocks;

  size_t bytes() const {
    size_t sum = slab->bytes();
    for (const auto& block : host_blocks) sum += block.size();
    return sum;
  }
};

// Numbers are never used twice, so that one that outlived its object names nothing else.
class KernelHeap {
 public:
  int64_t add(std::unique_ptr<Slab> slab);
  int64_t add(KernelMatrix matrix);
  // The bytes that this gave back; 0 for an id that names nothing (any more).
  size_t remove(int64_t id);

  // Throw kDisposed for an id that names nothing (any more).
  const Slab& memory(int64_t id) const;
  const KernelMatrix& matrix(int64_t id) const;

  size_t bytes() const { return bytes_; }

 private:
  std::unordered_map<int64_t, std::unique_ptr<Slab>> memories_;
  std::unordered_map<int64_t, KernelMatrix> matrices_;
  int64_t next_id_ = 1;
  size_t bytes_ = 0;
};

}  // namespace hymba
