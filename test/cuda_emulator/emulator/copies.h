// Asynchronous copies from global to shared memory (cp.async).
#pragma once

#include <vector>

#include "emulator/block.h"

namespace emulator {

// Those of one thread. When they end is not known before the wait: here as late as can be, and
// until then the destination holds NaNs.
class CopyQueue {
 public:
  void clear();
  void start(void* shared, const void* global, int valid_bytes, const Site& site);
  // Closes the group of the copies since the last one.
  void commit() { ++open_group_; }
  // Waits for all closed groups but the `pending` newest.
  void wait(int pending);

 private:
  struct Copy {
    void* shared;
    const void* global;
    int valid_bytes;
    int group;
  };
  std::vector<Copy> copies_;  // under way, oldest first
  int open_group_ = 0;
};

CopyQueue& copies_of_thread();

}  // namespace emulator
