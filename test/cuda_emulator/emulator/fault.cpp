#include "emulator/fault.h"

#include <pthread.h>
#include <ucontext.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "emulator/block.h"
#include "emulator/device.h"
#include "emulator/fiber.h"
#include "emulator/symbols.h"

namespace emulator {
namespace {

constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

std::array<struct sigaction, kSignals.size()> old_actions;
pthread_t kernel_thread;

struct Fault {
  int signal;
  const char* address;
  const void* instruction;
};
Fault fault;

// Runs outside of the signal handler, on a stack of its own: the fiber's may be full.
void report_fault() {
  const std::string where = " in " + symbol_name(fault.instruction);
  switch (fault.signal) {
    case SIGFPE:
      fail_thread(cudaErrorLaunchFailure, "an integer division by zero" + where);
    case SIGILL:
      fail_thread(cudaErrorIllegalInstruction, "an impossible place was reached" + where);
    default:
      fail_thread(cudaErrorIllegalAddress,
                  "an access to " + describe_address(fault.address) + where);
  }
}

void pass_on(int signal, siginfo_t* info, void* context) {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] != signal) continue;
    const struct sigaction& old = old_actions[i];
    if ((old.sa_flags & SA_SIGINFO) != 0) {
      old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
      old.sa_handler(signal);
    } else {
      // The instruction is tried again, without us.
      sigaction(signal, &old, nullptr);
    }
  }
}

void on_signal(int signal, siginfo_t* info, void* context) {
  if (!in_kernel() || pthread_equal(pthread_self(), kernel_thread) == 0)
    return pass_on(signal, info, context);
  static Stack stack;
  gregset_t& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  fault = {signal, static_cast<const char*>(info->si_addr),
           reinterpret_cast<const void*>(registers[REG_RIP])};
  // Go on there, as if it had been called: the place of the return address is on top of the stack.
  stack.prepare(report_fault);
  registers[REG_RIP] = reinterpret_cast<greg_t>(&report_fault);
  registers[REG_RSP] = reinterpret_cast<greg_t>(stack.top()) - 8;
}

}  // namespace

FaultCatcher::FaultCatcher() {
  kernel_thread = pthread_self();
  static Stack signal_stack;
  stack_t stack{};
  stack.ss_sp = signal_stack.bottom();
  stack.ss_size = kStackBytes;
  sigaltstack(&stack, &old_stack_);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &old_actions[i]);
}

FaultCatcher::~FaultCatcher() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &old_actions[i], nullptr);
  sigaltstack(&old_stack_, nullptr);
}

}  // namespace emulator

// --- What the compiler's checks call (-fsanitize=alignment,bounds) ------------------------------

namespace {

struct SourceLocation {
  const char* file;
  uint32_t line;
  uint32_t column;
};

[[noreturn]] void fail_check(cudaError_t error, const SourceLocation& location,
                             const std::string& what) {
  const std::string text = what + " at " + location.file + ":" + std::to_string(location.line);
  if (emulator::in_kernel()) emulator::fail_thread(error, text);
  std::fprintf(stderr, "CUDA emulator: outside of a kernel: %s\n", text.c_str());
  std::abort();
}

}  // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(SourceLocation* location, uintptr_t address) {
  char text[96];
  std::snprintf(text, sizeof text, "a misaligned access to address 0x%zx", size_t{address});
  fail_check(cudaErrorMisalignedAddress, *location, text);
}
void __ubsan_handle_type_mismatch_v1_abort(SourceLocation* location, uintptr_t address) {
  __ubsan_handle_type_mismatch_v1(location, address);
}
void __ubsan_handle_out_of_bounds(SourceLocation* location, uintptr_t idx) {
  fail_check(cudaErrorIllegalAddress, *location,
             "index " + std::to_string(static_cast<intptr_t>(idx)) + " outside of an array");
}
void __ubsan_handle_out_of_bounds_abort(SourceLocation* location, uintptr_t idx) {
  __ubsan_handle_out_of_bounds(location, idx);
}
}
