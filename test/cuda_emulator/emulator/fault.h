// Turns signals that the code of a kernel raises into errors of the grid.
#pragma once

#include <csignal>

namespace emulator {

// While it lives, faults in kernels of this thread end the grid; others go where they went before.
class FaultCatcher {
 public:
  FaultCatcher();
  ~FaultCatcher();
  FaultCatcher(const FaultCatcher&) = delete;
  FaultCatcher& operator=(const FaultCatcher&) = delete;

 private:
  stack_t old_stack_{};
};

// Whether a kernel runs, which may be failed.
bool in_kernel();

}  // namespace emulator
