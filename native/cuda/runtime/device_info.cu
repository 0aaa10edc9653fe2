#include "cuda/runtime/device_info.h"

#include <cuda_runtime.h>

#include <array>

namespace hymba::cuda {
namespace {

constexpr int kProbeThreads = 64;

// Writes a pattern that a device which cannot run this build's code would not leave.
__global__ void probe_kernel(int* out) { out[threadIdx.x] = static_cast<int>(threadIdx.x) * 3 + 1; }

// Runs the kernel on the current device. Returns what went wrong, or nothing.
std::string run_probe_kernel() {
  int* out = nullptr;
  cudaError_t error = cudaMalloc(&out, kProbeThreads * sizeof(int));
  std::array<int, kProbeThreads> host{};
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = 1;
    config.blockDim = kProbeThreads;
    error = cudaLaunchKernelEx(&config, probe_kernel, out);
    if (error == cudaSuccess)
      error = cudaMemcpy(host.data(), out, sizeof host, cudaMemcpyDeviceToHost);
    cudaFree(out);
  }
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int i = 0; i < kProbeThreads; ++i)
    if (host[i] != i * 3 + 1) return "a test kernel wrote wrong values";
  return {};
}

DeviceInfo probe_device(int device) {
  DeviceInfo info;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error != cudaSuccess) {
    info.problem = cudaGetErrorString(error);
    return info;
  }
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.num_sms = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.problem = run_probe_kernel();
  return info;
}

}  // namespace

DeviceProbe probe_devices() {
  DeviceProbe probe;
  cudaRuntimeGetVersion(&probe.runtime_version);
  cudaDriverGetVersion(&probe.driver_version);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (probe.driver_version == 0)
    probe.problem = "no CUDA driver is installed (libcuda.so.1)";
  else if (error != cudaSuccess)
    probe.problem = cudaGetErrorString(error);
  else if (count == 0)
    probe.problem = "the driver reports no device";
  for (int device = 0; error == cudaSuccess && device < count; ++device)
    probe.devices.push_back(probe_device(device));
  return probe;
}

}  // namespace hymba::cuda
