#include "addon/kernel_heap.h"

#include <utility>

namespace hymba {

int64_t KernelHeap::add(std::unique_ptr<Slab> slab) {
  bytes_ += slab->bytes();
  memories_.emplace(next_id_, std::move(slab));
  return next_id_++;
}

int64_t KernelHeap::add(KernelMatrix matrix) {
  bytes_ += matrix.bytes();
  matrices_.emplace(next_id_, std::move(matrix));
  return next_id_++;
}

size_t KernelHeap::remove(int64_t id) {
  size_t freed = 0;
  if (const auto memory = memories_.find(id); memory != memories_.end()) {
    freed = memory->second->bytes();
    memories_.erase(memory);
  } else if (const auto matrix = matrices_.find(id); matrix != matrices_.end()) {
    freed = matrix->second.bytes();
    matrices_.erase(matrix);
  }
  bytes_ -= freed;
  return freed;
}

const Slab& KernelHeap::memory(int64_t id) const {
  const auto found = memories_.find(id);
  if (found == memories_.end()) fail(ErrorCode::kDisposed, "the tensor was disposed");
  return *found->second;
}

const KernelMatrix& KernelHeap::matrix(int64_t id) const {
  const auto found = matrices_.find(id);
  if (found == matrices_.end()) fail(ErrorCode::kDisposed, "the matrix was disposed");
  return found->second;
}

}  // namespace hymba
