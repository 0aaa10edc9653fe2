// Memory of the emulated device and pinned memory of the host: an allocation each, with guards.
#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <sstream>

#include "emulator/device.h"
#include "emulator/guarded_memory.h"
#include "emulator/settings.h"

namespace emulator {
namespace {

// cudaMalloc promises as much.
constexpr size_t kDeviceAlignment = 256;
// In use before anything is allocated, as by CUDA's context.
constexpr size_t kContextBytes = size_t{512} << 20;

struct Allocation {
  std::unique_ptr<GuardedMemory> memory;
  size_t bytes;
  bool is_device;
};

// By address.
std::map<const char*, Allocation>& allocations() {
  static std::map<const char*, Allocation> map;
  return map;
}
size_t device_bytes_used = kContextBytes;

size_t free_device_bytes() {
  const size_t total = device_bytes();
  return total - std::min(total, device_bytes_used);
}

// The allocation whose mapping, guards included, holds the address; end() if there is none.
auto find_mapping(const char* address) {
  auto& map = allocations();
  // The one begun at or before the address, and the one after it, whose front guard may hold it.
  auto after = map.upper_bound(address);
  for (auto candidate : {after == map.begin() ? map.end() : std::prev(after), after})
    if (candidate != map.end() && address >= candidate->second.memory->begin() &&
        address < candidate->second.memory->end())
      return candidate;
  return map.end();
}

cudaError_t allocate(void** pointer, size_t bytes, bool is_device) {
  if (pointer == nullptr) return cudaErrorInvalidValue;
  *pointer = nullptr;
  require_no_capture(is_device ? "cudaMalloc" : "cudaMallocHost");
  if (bytes == 0) return cudaSuccess;
  if (is_device && bytes > free_device_bytes()) return cudaErrorMemoryAllocation;
  try {
    auto memory = std::make_unique<GuardedMemory>(bytes, kDeviceAlignment);
    char* begin = memory->right_aligned(bytes);
    allocations().emplace(begin, Allocation{std::move(memory), bytes, is_device});
    if (is_device) device_bytes_used += bytes;
    *pointer = begin;
    return cudaSuccess;
  } catch (const std::bad_alloc&) {
    return cudaErrorMemoryAllocation;
  }
}

void release(void* pointer, bool is_device, const char* call) {
  if (pointer == nullptr) return;
  const auto found = allocations().find(static_cast<char*>(pointer));
  if (found == allocations().end() || found->second.is_device != is_device)
    refuse(cudaErrorInvalidValue,
           std::string(call) + ": " + describe_address(static_cast<char*>(pointer)));
  if (is_device) device_bytes_used -= found->second.bytes;
  allocations().erase(found);
}

struct Copy2D {
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch;
  size_t width;
  size_t height;

  size_t to_bytes() const { return height == 0 ? 0 : (height - 1) * to_pitch + width; }
  size_t from_bytes() const { return height == 0 ? 0 : (height - 1) * from_pitch + width; }
  void operator()() const {
    for (size_t row = 0; row < height; ++row)
      std::memmove(to + row * to_pitch, from + row * from_pitch, width);
  }
};

// As late as CUDA may carry it out: a copy from pageable memory takes the bytes along at once, one
// to pageable memory is complete when the call returns, all others wait until somebody waits.
cudaError_t copy(Copy2D copy, cudaMemcpyKind kind, cudaStream_t stream, const char* call) {
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (copy.width > copy.to_pitch || copy.width > copy.from_pitch)
    refuse(cudaErrorInvalidValue, std::string(call) + ": rows overlap");
  if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
    require_device_memory(copy.to, copy.to_bytes(), call);
  if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
    require_device_memory(copy.from, copy.from_bytes(), call);
  const bool from_pageable = is_pageable(copy.from, copy.from_bytes(), call);
  const bool to_pageable = is_pageable(copy.to, copy.to_bytes(), call);
  if (from_pageable && !is_capturing(stream)) {
    auto bytes = std::make_shared<std::vector<char>>(copy.from, copy.from + copy.from_bytes());
    copy.from = bytes->data();
    enqueue(stream, [copy, bytes] { copy(); });
  } else {
    enqueue(stream, copy);
  }
  if (to_pageable && !is_capturing(stream)) synchronize(call);
  return cudaSuccess;
}

}  // namespace

size_t device_bytes() { return setting("MEMORY_MIB", 64 << 10) << 20; }

bool is_pageable(const void* pointer, size_t bytes, const char* call) {
  const auto* begin = static_cast<const char*>(pointer);
  const auto found = find_mapping(begin);
  if (found == allocations().end()) return true;
  if (begin < found->first || begin + bytes > found->first + found->second.bytes)
    refuse(cudaErrorInvalidValue, std::string(call) + " of " + std::to_string(bytes) +
                                      " bytes: " + describe_address(begin));
  return false;
}

void require_device_memory(const void* pointer, size_t bytes, const char* call) {
  if (is_pageable(pointer, bytes, call))
    refuse(cudaErrorInvalidValue,
           std::string(call) + ": " + describe_address(static_cast<const char*>(pointer)));
}

std::string describe_address(const char* address) {
  std::ostringstream text;
  text << "address " << static_cast<const void*>(address);
  const auto found = find_mapping(address);
  if (found == allocations().end()) {
    text << ", which belongs to no allocation";
  } else {
    const char* begin = found->first;
    const char* end = begin + found->second.bytes;
    if (address < begin)
      text << ", " << begin - address << " bytes before";
    else if (address >= end)
      text << ", " << address - end << " bytes behind";
    else
      text << ", " << address - begin << " bytes into";
    text << (found->second.is_device ? " an allocation of " : " a pinned allocation of ")
         << found->second.bytes << " bytes";
  }
  return text.str();
}

std::string find_overrun() {
  for (const auto& [begin, allocation] : allocations())
    if (!allocation.memory->is_slack_intact(allocation.bytes))
      return "a write next to an allocation of " + std::to_string(allocation.bytes) + " bytes";
  return {};
}

}  // namespace emulator

using emulator::Copy2D;
using emulator::runtime_call;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return runtime_call([&] { return emulator::allocate(pointer, bytes, true); });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return runtime_call([&] { return emulator::allocate(pointer, bytes, false); });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return cudaMallocHost(pointer, bytes);
}

// Released even when a kernel failed before.
static cudaError_t release_memory(void* pointer, bool is_device, const char* call) {
  const cudaError_t waited = runtime_call([&] {
    emulator::synchronize(call);
    return cudaSuccess;
  });
  const std::lock_guard lock(emulator::device_mutex());
  try {
    emulator::release(pointer, is_device, call);
  } catch (cudaError_t error) {
    return waited != cudaSuccess ? waited : error;
  }
  return waited;
}

cudaError_t cudaFree(void* pointer) { return release_memory(pointer, true, "cudaFree"); }

cudaError_t cudaFreeHost(void* pointer) { return release_memory(pointer, false, "cudaFreeHost"); }

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return runtime_call([&] {
    *free_bytes = emulator::free_device_bytes();
    *total_bytes = emulator::device_bytes();
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return runtime_call([&] {
    const Copy2D operation{static_cast<char*>(to),
                           to_pitch,
                           static_cast<const char*>(from),
                           from_pitch,
                           width,
                           height};
    return emulator::copy(operation, kind, stream, "cudaMemcpy");
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpy2D(to, bytes, from, bytes, bytes, 1, kind);
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
  const cudaError_t error =
      cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return runtime_call([&] {
    emulator::require_device_memory(to, bytes, "cudaMemset");
    emulator::enqueue(stream, [=] { std::memset(to, value, bytes); });
    return cudaSuccess;
  });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
