// What the environment says about the device: it stands in for machines that tests cannot have.
#pragma once

#include <cstdlib>
#include <string>

namespace emulator {

// HYMBA_EMULATOR_<name>, a number that is read at every call, so that a test can change it.
inline size_t setting(const char* name, size_t fallback) {
  const char* text = std::getenv((std::string("HYMBA_EMULATOR_") + name).c_str());
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

}  // namespace emulator
