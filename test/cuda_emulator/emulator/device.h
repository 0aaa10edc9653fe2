// The state of the emulated device that the runtime's calls share.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/errors.h"
#include "emulator/runtime_api.h"

namespace emulator {

using Operation = std::function<void()>;

// Guards everything below and everything that a kernel uses.
std::recursive_mutex& device_mutex();

// Carries `body` out as one call of the runtime: remembers its error for cudaGetLastError, and
// gives the error of a kernel that failed earlier instead, if there is one. `body` may throw a
// cudaError_t.
cudaError_t runtime_call(const std::function<cudaError_t()>& body);

// An error that only a reset forgets, and what is known about it.
void fail_device(cudaError_t error, const std::string& message);

// Says why a call is refused, then throws `error`.
[[noreturn]] void refuse(cudaError_t error, const std::string& message);

// Puts work into a stream, or into the graph that it captures. The device carries it out as late as
// it may: when somebody waits.
void enqueue(cudaStream_t stream, Operation operation);
bool is_capturing(cudaStream_t stream);

// Refuses what a capture forbids this thread.
void require_no_capture(const char* call);

// Carries out everything in order. Throws the error of a kernel; refuses during a capture.
void synchronize(const char* call);

// What the device has in all.
size_t device_bytes();

// Whether this program holds code for the device.
bool has_kernel_image();

// Whether [pointer, pointer + bytes) is the program's own, as opposed to memory of cudaMalloc or
// pinned memory. Refuses when it is partly one, partly the other.
bool is_pageable(const void* pointer, size_t bytes, const char* call);
// Refuses unless the device may work with it.
void require_device_memory(const void* pointer, size_t bytes, const char* call);

// An address relative to the allocation next to it.
std::string describe_address(const char* address);

// Says what was written right before or behind an allocation; empty: nothing.
std::string find_overrun();

}  // namespace emulator
