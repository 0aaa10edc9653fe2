// Atomic operations. One thread of the CPU runs all threads of a grid and changes between them at
// barriers only, so plain reads and writes are atomic.
#pragma once

#include <type_traits>

// The second operand is converted to the first's type, as CUDA's overloads do.
#define HYMBA_EMULATOR_ATOMIC(name, expression)               \
  template <typename T>                                       \
  T name(T* address, std::type_identity_t<T> value) {         \
    const T old = *address;                                   \
    *address = static_cast<T>(expression);                    \
    return old;                                               \
  }                                                           \
  template <typename T>                                       \
  T name##_block(T* address, std::type_identity_t<T> value) { \
    return name(address, value);                              \
  }

HYMBA_EMULATOR_ATOMIC(atomicAdd, old + value)
HYMBA_EMULATOR_ATOMIC(atomicSub, old - value)
HYMBA_EMULATOR_ATOMIC(atomicExch, value)
HYMBA_EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
HYMBA_EMULATOR_ATOMIC(atomicMax, value > old ? value : old)
HYMBA_EMULATOR_ATOMIC(atomicAnd, old& value)
HYMBA_EMULATOR_ATOMIC(atomicOr, old | value)
HYMBA_EMULATOR_ATOMIC(atomicXor, old ^ value)
HYMBA_EMULATOR_ATOMIC(atomicInc, old >= value ? T{} : old + 1)
HYMBA_EMULATOR_ATOMIC(atomicDec, old == T{} || old > value ? value : old - 1)
#undef HYMBA_EMULATOR_ATOMIC

template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
