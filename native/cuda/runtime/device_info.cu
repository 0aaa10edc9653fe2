#include "cuda/runtime/device_info.h"

#include <cuda_runtime.h>

#include <array>
#include <cstdlib>

#include "cuda/runtime/device_room.h"

namespace hymba::cuda {
namespace {

constexpr int kProbeThreads = 64;

// The oldest part that has what the kernels use: mma with bf16, cp.async.
constexpr int kMinComputeMajor = 8;

// Writes a pattern that a device which cannot run this build's code would not leave.
__global__ void probe_kernel(int* out) { out[threadIdx.x] = static_cast<int>(threadIdx.x) * 3 + 1; }

// Why the device cannot be used; empty when it can. One whose memory is full can: the load says so.
std::string problem_of(cudaError_t error, const cudaDeviceProp& properties) {
  if (error == cudaSuccess || error == cudaErrorMemoryAllocation) return {};
  if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorUnsupportedPtxVersion)
    return cudaGetErrorString(error);
  const std::string capability =
      std::to_string(properties.major) + "." + std::to_string(properties.minor);
  if (properties.major < kMinComputeMajor)
    return "its compute capability is " + capability + ", the kernels need " +
           std::to_string(kMinComputeMajor) + ".0 or newer";
  return "this build has no code for its compute capability " + capability +
         ": build it with HYMBA_CUDA_TARGETS=" + std::to_string(properties.major) +
         std::to_string(properties.minor);
}

// Runs the kernel on the current device and reads what it wrote.
cudaError_t run_probe_kernel(std::array<int, kProbeThreads>& host) {
  int* out = nullptr;
  cudaError_t error = cudaMalloc(&out, sizeof host);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = 1;
  config.blockDim = kProbeThreads;
  error = cudaLaunchKernelEx(&config, probe_kernel, out);
  if (error == cudaSuccess)
    error = cudaMemcpy(host.data(), out, sizeof host, cudaMemcpyDeviceToHost);
  cudaFree(out);
  return error;
}

DeviceInfo probe_device(int device) {
  DeviceInfo info;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) {
    info.name = properties.name;
    info.compute_major = properties.major;
    info.compute_minor = properties.minor;
    info.num_sms = properties.multiProcessorCount;
    info.shared_bytes_per_sm = properties.sharedMemPerMultiprocessor;
    info.takes_sm90_kernels = info.compute_major == 9 && info.compute_minor == 0 &&
                              std::getenv("HYMBA_PORTABLE_KERNELS") == nullptr;
    info.memory_bytes = properties.totalGlobalMem;
    error = cudaSetDevice(device);
  }
  std::array<int, kProbeThreads> host{};
  if (error == cudaSuccess) error = run_probe_kernel(host);
  if (error != cudaSuccess) {
    cudaGetLastError();  // reported here: the next call must not find it
    info.problem = problem_of(error, properties);
    return info;
  }
  for (int i = 0; i < kProbeThreads; ++i)
    if (host[i] != i * 3 + 1) info.problem = "a test kernel wrote wrong values";
  try {
    info.available_bytes = device_room().available_bytes;
  } catch (const Error& thrown) {
    info.problem = thrown.what();
  }
  return info;
}

}  // namespace

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

DeviceProbe probe_devices() {
  DeviceProbe probe;
  cudaRuntimeGetVersion(&probe.runtime_version);
  cudaDriverGetVersion(&probe.driver_version);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (probe.driver_version == 0)
    probe.problem = "no CUDA driver is installed (libcuda.so.1)";
  else if (error == cudaErrorInsufficientDriver)
    probe.problem = "the driver is too old: it serves CUDA " + version_text(probe.driver_version) +
                    ", this build needs " + version_text(probe.runtime_version) +
                    "; install a newer driver, or build with an older CUDA toolkit";
  else if (error != cudaSuccess)
    probe.problem = cudaGetErrorString(error);
  else if (count == 0)
    probe.problem = "the driver reports no device";
  for (int device = 0; error == cudaSuccess && device < count; ++device)
    probe.devices.push_back(probe_device(device));
  return probe;
}

}  // namespace hymba::cuda
