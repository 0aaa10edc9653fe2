#include "emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the CUDA emulator knows x86-64 only"
#endif

// The registers that a function must leave as they are, pushed onto the old stack and popped from
// the new one. The control words of the floating-point unit are the same everywhere.
extern "C" void hymba_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl hymba_emulator_switch
.hidden hymba_emulator_switch
.type hymba_emulator_switch, @function
hymba_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hymba_emulator_switch, .-hymba_emulator_switch
)");

namespace emulator {

Stack::Stack() {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* mapping = mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) std::abort();
  mprotect(mapping, guard, PROT_NONE);
  bottom_ = static_cast<char*>(mapping) + guard;
}

void* Stack::prepare(void (*function)()) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(bottom_, kStackBytes);  // what an abandoned context left
#endif
  constexpr int kRegisters = 6;
  auto* context = reinterpret_cast<uint64_t*>(top()) - kRegisters - 2;
  for (int i = 0; i < kRegisters; ++i) context[i] = 0;
  context[kRegisters] = reinterpret_cast<uint64_t>(function);
  context[kRegisters + 1] = 0;  // where a caller's address would be; also aligns the stack
  return context;
}

#ifdef __SANITIZE_ADDRESS__
namespace {
const void* host_bottom = nullptr;
size_t host_bytes = 0;
}  // namespace

void switch_context(void** from, void* to, const Stack* stack) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack ? stack->bottom() : host_bottom,
                                 stack ? kStackBytes : host_bytes);
  hymba_emulator_switch(from, to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void enter_context() {
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  // Only the first stack of a block is entered from the host's; all others have kStackBytes.
  if (bytes != kStackBytes) host_bottom = bottom, host_bytes = bytes;
}
#else
void switch_context(void** from, void* to, const Stack*) { hymba_emulator_switch(from, to); }

void enter_context() {}
#endif

}  // namespace emulator
