// The one exception type of the native code. Its code crosses into JavaScript as `HymbaError.code`.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace hymba {

// Order and names equal HYMBA_ERROR_CODES in lib/errors.ts (a test compares them).
enum class ErrorCode {
  kInvalidArgument,
  kModelFormat,
  kModelUnsupported,
  kNoDevice,
  kUnsupportedDevice,
  kOutOfMemory,
  kContextFull,
  kBusy,
  kDisposed,
  kAborted,
  kDeviceLost,
  kInternal,
};

inline constexpr const char* kErrorCodeNames[] = {
    "ERR_INVALID_ARGUMENT",   "ERR_MODEL_FORMAT",  "ERR_MODEL_UNSUPPORTED", "ERR_NO_DEVICE",
    "ERR_UNSUPPORTED_DEVICE", "ERR_OUT_OF_MEMORY", "ERR_CONTEXT_FULL",      "ERR_BUSY",
    "ERR_DISPOSED",           "ERR_ABORTED",       "ERR_DEVICE_LOST",       "ERR_INTERNAL",
};
static_assert(std::size(kErrorCodeNames) == static_cast<size_t>(ErrorCode::kInternal) + 1);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }
  const char* code_name() const { return kErrorCodeNames[static_cast<size_t>(code_)]; }

 private:
  ErrorCode code_;
};

// Throws an Error whose message is the parts written one after the other.
template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(code, message.str());
}

// Throws kInternal when an invariant of our own code does not hold.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(ErrorCode::kInternal, parts...);
}

}  // namespace hymba
