#include "model/host_tensors.h"

#include <sys/mman.h>

#include <cstring>
#include <thread>

#include "core/error.h"
#include "core/thread_pool.h"

namespace hymba {
namespace {

// Page-aligned memory that is given back as soon as its last owner goes.
std::shared_ptr<void> host_memory(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    fail(ErrorCode::kOutOfMemory, "cannot allocate ", bytes, " bytes of host memory for weights");
  return {data, [bytes](void* memory) { munmap(memory, bytes); }};
}

float synthetic_value(const TensorEntry& entry, uint64_t seed, uint64_t index) {
  switch (entry.fill) {
    case SyntheticFill::kNormal:
      return synthetic_normal(seed, entry.stream, index, entry.scale);
    case SyntheticFill::kConstant:
      return entry.scale;
    case SyntheticFill::kLogArange:
      return synthetic_log_arange(index, static_cast<uint64_t>(entry.shape.back()));
    case SyntheticFill::kDtBias:
      return synthetic_dt_bias(seed, entry.stream, index);
  }
  fail(ErrorCode::kInternal, "unknown synthetic fill");
}

}  // namespace

int64_t TensorEntry::elements() const {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

HostTensors::HostTensors(const TensorTable& table, bool describe_only)
    : table_(table), describe_only_(describe_only) {
  for (const TensorEntry& entry : table.tensors) entries_.emplace(entry.name, &entry);
  if (describe_only) return;
  for (const std::string& path : table.files) files_.push_back(std::make_shared<MappedFile>(path));
}

HostTensor HostTensors::get(const std::string& name, int64_t rows, int64_t cols) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail(ErrorCode::kModelFormat, "tensor ", name, " is missing");
  const TensorEntry& entry = *found->second;
  if (entry.elements() != rows * cols)
    fail(ErrorCode::kModelFormat, "tensor ", name, " has ", entry.elements(),
         " elements, expected ", rows, " x ", cols);
  HostTensor tensor;
  if (!describe_only_) tensor = entry.file >= 0 ? from_file(entry) : generate(entry);
  tensor.view = TensorView(tensor.view.raw(), entry.dtype, {rows, cols});
  return tensor;
}

HostTensor HostTensors::from_file(const TensorEntry& entry) const {
  if (static_cast<size_t>(entry.file) >= files_.size())
    fail(ErrorCode::kModelFormat, "tensor ", entry.name, " is in file ", entry.file, " of ",
         files_.size());
  const std::shared_ptr<MappedFile>& file = files_[entry.file];
  if (entry.begin > entry.end || entry.end > file->bytes() ||
      entry.end - entry.begin != entry.bytes())
    fail(ErrorCode::kModelFormat, "tensor ", entry.name, " takes bytes [", entry.begin, ", ",
         entry.end, ") of a file of ", file->bytes(), ", expected ", entry.bytes(),
         " bytes inside it");
  const char* data = file->data() + entry.begin;
  HostTensor tensor{{}, file};
  if (reinterpret_cast<uintptr_t>(data) % dtype_bytes(entry.dtype) != 0) {
    // The format does not promise alignment. Writers that pad the header, nearly all, never get
    // here.
    tensor.owner = host_memory(entry.bytes());
    std::memcpy(tensor.owner.get(), data, entry.bytes());
    data = static_cast<const char*>(tensor.owner.get());
  }
  tensor.view = TensorView(const_cast<char*>(data), entry.dtype, {entry.elements()});
  return tensor;
}

HostTensor HostTensors::generate(const TensorEntry& entry) const {
  check(entry.dtype == DType::kBF16, "synthetic tensors are BF16");
  HostTensor tensor{{}, host_memory(entry.bytes())};
  auto* data = static_cast<BFloat16*>(tensor.owner.get());
  constexpr int64_t kBlock = 1 << 16;
  const int64_t count = entry.elements();
  ThreadPool pool(static_cast<int>(std::thread::hardware_concurrency()));
  pool.parallel_for((count + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t end = std::min(count, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; ++i)
      data[i] = from_float<BFloat16>(synthetic_value(entry, table_.seed, static_cast<uint64_t>(i)));
  });
  tensor.view = TensorView(data, entry.dtype, {count});
  return tensor;
}

}  // namespace hymba
