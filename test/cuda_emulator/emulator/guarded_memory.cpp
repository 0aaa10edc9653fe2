#include "emulator/guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace emulator {
namespace {

// Wide, to catch an index that is far off too.
constexpr size_t kGuardBytes = 64 * 1024;
constexpr size_t kPageBytes = 4096;
// More is not filled with poison but stays zero, and takes memory when it is used only.
constexpr size_t kMaxPoisonedBytes = size_t{64} << 20;

size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

}  // namespace

GuardedMemory::GuardedMemory(size_t bytes, size_t alignment) : alignment_(alignment) {
  const size_t usable = round_up(std::max<size_t>(bytes, 1), std::max(alignment, kPageBytes));
  mapped_bytes_ = usable + 2 * kGuardBytes;
  void* mapping =
      mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  guard_ = mapping_ + kGuardBytes + usable;
  if (mprotect(mapping_ + kGuardBytes, usable, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping_, mapped_bytes_);
    throw std::bad_alloc();
  }
  std::memset(mapping_ + kGuardBytes, kPoison, std::min(usable, kMaxPoisonedBytes));
  // The slack behind is poison in any case. What lies before fits into the first page.
  std::memset(guard_ - std::min(usable, alignment), kPoison, std::min(usable, alignment));
}

GuardedMemory::~GuardedMemory() { munmap(mapping_, mapped_bytes_); }

char* GuardedMemory::right_aligned(size_t bytes) const {
  return guard_ - round_up(std::max<size_t>(bytes, 1), alignment_);
}

bool GuardedMemory::is_slack_intact(size_t bytes) const {
  const auto is_poison = [](char byte) { return static_cast<unsigned char>(byte) == kPoison; };
  char* begin = right_aligned(bytes);
  char* usable = mapping_ + kGuardBytes;
  char* before = begin - std::min(alignment_, static_cast<size_t>(begin - usable));
  return std::all_of(before, begin, is_poison) && std::all_of(begin + bytes, guard_, is_poison);
}

}  // namespace emulator
