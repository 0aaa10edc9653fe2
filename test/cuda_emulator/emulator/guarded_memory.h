// Memory that faults when it is overrun.
#pragma once

#include <cstddef>
#include <string>

namespace emulator {

// What uninitialised memory is filled with: NaN in every floating-point format, -1 as an index.
inline constexpr int kPoison = 0xff;

inline constexpr size_t kSharedAlignment = 1024;
inline constexpr size_t kMaxSharedBytes = 227 * 1024;        // of a block that asked for it
inline constexpr size_t kMaxDefaultSharedBytes = 48 * 1024;  // of one that did not

class GuardedMemory {
 public:
  // Throws std::bad_alloc.
  GuardedMemory(size_t bytes, size_t alignment);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // The last `bytes`, begun at a multiple of the alignment. Behind, less than `alignment` bytes of
  // poison and then pages that nobody may touch; before, less than a page of poison and the same.
  char* right_aligned(size_t bytes) const;

  // The mapping, unmapped pages included.
  const char* begin() const { return mapping_; }
  const char* end() const { return mapping_ + mapped_bytes_; }
  // Whether nobody wrote into the poison before or behind the last `bytes`.
  bool is_slack_intact(size_t bytes) const;

 private:
  size_t alignment_;
  char* mapping_;
  size_t mapped_bytes_;
  char* guard_;  // the pages behind
};

}  // namespace emulator
