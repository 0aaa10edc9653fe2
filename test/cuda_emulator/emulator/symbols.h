// What the symbol table of this library or program says about a kernel.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace emulator {

// The function that holds `address`, in C++'s spelling.
std::string symbol_name(const void* address);

struct MemoryRange {
  char* begin;
  size_t bytes;
};

// The zero-initialised static variables in a function: a kernel's static shared memory. Not those
// of functions that it calls.
const std::vector<MemoryRange>& static_variables(const void* function);

}  // namespace emulator
