#include "emulator/copies.h"

#include <cstdint>
#include <cstring>

#include "emulator/guarded_memory.h"

namespace emulator {

void CopyQueue::clear() {
  copies_.clear();
  open_group_ = 0;
}

void CopyQueue::start(void* shared, const void* global, int valid_bytes, const Site& site) {
  const auto fail_here = [&](cudaError_t error, const std::string& problem) {
    fail_thread(error, std::string("an asynchronous copy at ") + site.file_name() + ":" +
                           std::to_string(site.line()) + problem);
  };
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      (valid_bytes > 0 && reinterpret_cast<uintptr_t>(global) % 16 != 0))
    fail_here(cudaErrorMisalignedAddress, " from or to an address that is no multiple of 16");
  if (valid_bytes < 0 || valid_bytes > 16)
    fail_here(cudaErrorLaunchFailure, " of " + std::to_string(valid_bytes) + " bytes");
  std::memset(shared, kPoison, 16);
  copies_.push_back({shared, global, valid_bytes, open_group_});
}

void CopyQueue::wait(int pending) {
  auto copy = copies_.begin();
  for (; copy != copies_.end() && copy->group < open_group_ - pending; ++copy) {
    char bytes[16] = {};
    if (copy->valid_bytes > 0)
      std::memcpy(bytes, copy->global, static_cast<size_t>(copy->valid_bytes));
    std::memcpy(copy->shared, bytes, sizeof bytes);
  }
  copies_.erase(copies_.begin(), copy);
}

}  // namespace emulator
