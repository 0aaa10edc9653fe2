// The tensors of a checkpoint in host memory: mapped from its files, or generated.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/mapped_file.h"
#include "core/synthetic.h"
#include "core/tensor_view.h"

namespace hymba {

// One row of the tensor table that TypeScript read from the safetensors headers. Ranges are checked
// again here.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  int file = -1;  // index into files; -1: synthetic
  uint64_t begin = 0;
  uint64_t end = 0;
  SyntheticFill fill = SyntheticFill::kNormal;
  float scale = 0;
  uint32_t stream = 0;

  int64_t elements() const;
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype); }
};

struct TensorTable {
  std::vector<std::string> files;
  std::vector<TensorEntry> tensors;
  uint64_t seed = 0;  // of the synthetic ones
};

// A tensor seen as [rows, cols], and what keeps its memory alive.
struct HostTensor {
  TensorView view;
  std::shared_ptr<void> owner;
};

class HostTensors {
 public:
  // With `describe_only` no file is opened: views have shapes but no data.
  HostTensors(const TensorTable& table, bool describe_only);

  bool contains(const std::string& name) const { return entries_.contains(name); }

  // The tensor, which must have rows · cols elements. Throws kModelFormat when it is missing,
  // mis-shaped or out of its file.
  HostTensor get(const std::string& name, int64_t rows, int64_t cols) const;

 private:
  HostTensor from_file(const TensorEntry& entry) const;
  HostTensor generate(const TensorEntry& entry) const;

  const TensorTable& table_;
  std::unordered_map<std::string, const TensorEntry*> entries_;
  std::vector<std::shared_ptr<MappedFile>> files_;
  bool describe_only_;
};

}  // namespace hymba
