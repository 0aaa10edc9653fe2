// Stacks, and how the CPU changes from one to another.
#pragma once

#include <cstddef>

namespace emulator {

inline constexpr size_t kStackBytes = 256 * 1024;

// A stack with an unmapped page below, so that an overflow faults. Never given back.
class Stack {
 public:
  Stack();
  char* bottom() const { return bottom_; }
  char* top() const { return bottom_ + kStackBytes; }

  // The context in which `function`, which must not return, starts on this stack.
  void* prepare(void (*function)());

 private:
  char* bottom_;
};

// Stores the context that runs at `*from` and continues `to`, whose stack is `stack` (nullptr: the
// one that the process gave the thread).
void switch_context(void** from, void* to, const Stack* stack);

// To be called where a prepared function starts.
void enter_context();

}  // namespace emulator
