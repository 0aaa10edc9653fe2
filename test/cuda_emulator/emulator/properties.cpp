// What the emulated device says about itself.
#include "emulator/guarded_memory.h"
#include "emulator/runtime_api.h"

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* idx) {
  *idx = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int idx) { return idx == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int idx) {
  if (idx != 0) return cudaErrorInvalidDevice;
  // An H100, but for the memory.
  *properties = {
      .name = "CUDA emulator",
      .totalGlobalMem = size_t{64} << 30,
      .sharedMemPerBlock = emulator::kMaxDefaultSharedBytes,
      .sharedMemPerBlockOptin = emulator::kMaxSharedBytes,
      .sharedMemPerMultiprocessor = 228 * 1024,
      .regsPerBlock = 65536,
      .regsPerMultiprocessor = 65536,
      .warpSize = 32,
      .maxThreadsPerBlock = 1024,
      .maxThreadsPerMultiProcessor = 2048,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {0x7fffffff, 65535, 65535},
      .major = 9,
      .minor = 0,
      .multiProcessorCount = 132,
      .l2CacheSize = 50 << 20,
      .persistingL2CacheMaxSize = 0,
      .integrated = 0,
  };
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int idx) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, idx);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}
